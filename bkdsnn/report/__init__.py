"""Tables and figures, as functions of what runs left."""

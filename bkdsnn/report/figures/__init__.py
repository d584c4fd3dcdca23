"""The paper's figures: `plan` says which runs each shows; one module per kind of figure draws it."""

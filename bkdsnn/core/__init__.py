"""What every other part uses, and what itself uses none of them."""

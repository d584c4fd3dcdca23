"""The files of one run: reading, writing, checking and locking them."""

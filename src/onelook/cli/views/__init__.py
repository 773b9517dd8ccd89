"""How results of the API are shown on a terminal: one file a result."""

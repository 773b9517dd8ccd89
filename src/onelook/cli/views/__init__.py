"""Functions that print the results of the API, one file for each kind of result."""

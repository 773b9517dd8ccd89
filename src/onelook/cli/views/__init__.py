"""How the results of the verbs are shown on a terminal: one function a result, each in the file of its verb."""

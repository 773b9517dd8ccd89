"""The same work on several machines: one interface of workers, with Ray below it where it is asked for."""

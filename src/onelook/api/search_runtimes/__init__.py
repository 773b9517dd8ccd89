"""The runtimes that a search for a backbone measures latency in, one file each."""

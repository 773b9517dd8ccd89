"""Searches over settings: what to try next, given what was tried."""

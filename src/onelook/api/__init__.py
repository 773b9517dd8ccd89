"""What programs call: typed functions of values. Nothing is printed but through the reporter that the caller gives."""

"""The functions that programs call: `onelook.train`, `onelook.validate` and so on, one file each.

They take values and return values. They print nothing themselves, but call the methods of the `Reporter` that they are
given; None prints plain lines on standard error. They raise `UserError` for a user's mistake. The command line calls
the same functions.
"""

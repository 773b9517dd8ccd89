"""`python -m onelook`: the same as the `onelook` command."""

from onelook.cli.app import main

main()

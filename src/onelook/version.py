"""The version of this library, which files that it writes carry."""

try:
    from onelook._version import __version__  # written by the build, from the tag in git
except ModuleNotFoundError:  # the sources of a checkout, from which nothing was built
    __version__ = "0.1.0.dev0"

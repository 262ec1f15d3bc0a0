"""The class `Router`, and the home of its methods that are written in Python.

The class is the native one, which is open to subclassing. A method in Python is a function of this module
that is set on the class when this module is imported. A subclass here would do the same, but calls of
inherited native methods take a slower way in CPython: 10 ns more a `select`
(docs/decisions/0008-a-router-is-the-native-class.md).
"""

from turnout._core import Router as Router

__all__ = ["Router"]

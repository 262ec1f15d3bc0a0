"""The class `Router`, and the home of its methods that are written in Python.

The class is the native one, which is open to subclassing. A method in Python is a function of this module. It
is set on the class when this module is imported. A subclass here could have such methods too, but CPython
calls inherited native methods in a slower way: 10 ns more a `select`
(docs/decisions/0008-a-router-is-the-native-class.md).
"""

from turnout._core import Router as Router

__all__ = ["Router"]

"""What tests of programs that call LLMs need: a provider that answers as the test says, and a router that
never sleeps.

>>> from urllib.request import urlopen
>>> from turnout.testing import Provider, Reply
>>> with Provider() as provider:
...     provider.script(Reply.text("hello"))
...     with urlopen(f"{provider.base_url}/models") as answer:
...         answer.status
...     provider.requests[0].path
200
'/v1/models'

`import turnout` does not load this package. A :class:`Provider` needs h11, which httpx brings along:
``pip install "turnout[testing]"``.
"""

from turnout.testing.provider import Provider as Provider
from turnout.testing.received import ReceivedRequest as ReceivedRequest
from turnout.testing.replies import Reply as Reply
from turnout.testing.router import sleepless_router as sleepless_router

__all__ = ["Provider", "ReceivedRequest", "Reply", "sleepless_router"]

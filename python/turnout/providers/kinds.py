"""Tells the kind of failure by a status, a class, an OSError's number or an error's code.

The codes are those of the providers' documents and of public reports. They are written as
`turnout.providers.bodies.code` writes them.
"""

import errno

from turnout.enums import FailureKind

__all__: list[str] = []

_K = FailureKind

_BY_STATUS = {
    401: _K.AUTH,
    402: _K.AUTH,
    403: _K.AUTH,
    404: _K.NOT_FOUND,
    # The fault lies with a proxy (407), with the choice of the server (421), or with the server itself: the
    # request was not wrong.
    407: _K.ERROR,
    408: _K.TIMEOUT,
    409: _K.ERROR,
    410: _K.NOT_FOUND,
    413: _K.CONTEXT_WINDOW,
    421: _K.ERROR,
    423: _K.ERROR,
    424: _K.ERROR,
    425: _K.ERROR,
    429: _K.RATE_LIMIT,
    # nginx's "client closed request".
    499: _K.CANCELLED,
    504: _K.TIMEOUT,
}


def of_status(status: int) -> FailureKind:
    """Tells what a status of 400 and more means by itself.

    Args:
        status: The status.

    Returns:
        The kind.
    """
    return _BY_STATUS.get(status, _K.BAD_REQUEST if status < 500 else _K.ERROR)


# Names of classes. The search goes from the exception's own class to its bases.
BY_NAME = {
    "CancelledError": _K.CANCELLED,
    "Cancelled": _K.CANCELLED,
    # The client's own pool was full: the request was never sent.
    "PoolTimeout": _K.CANCELLED,
    "EmptyPoolError": _K.CANCELLED,
    "TimeoutError": _K.TIMEOUT,
    "ServerTimeoutError": _K.TIMEOUT,
    "ReadTimeoutError": _K.TIMEOUT,
    "TooSlowError": _K.TIMEOUT,
    # Those of botocore and requests are errors of a connection too.
    "ConnectTimeout": _K.TIMEOUT,
    "ConnectTimeoutError": _K.TIMEOUT,
    "TimeoutException": _K.TIMEOUT,
    "Timeout": _K.TIMEOUT,
    "APITimeoutError": _K.TIMEOUT,
    **dict.fromkeys(
        (
            # Python, ssl and asyncio.
            "ConnectionError",
            "gaierror",
            "herror",
            "SSLError",
            "IncompleteRead",
            "IncompleteReadError",
            # openai, anthropic and litellm; google-auth.
            "APIConnectionError",
            "TransportError",
            # httpcore and httpx, anyio below them.
            "NetworkError",
            "ConnectError",
            "ReadError",
            "WriteError",
            "CloseError",
            "ProtocolError",
            "RemoteProtocolError",
            "ProxyError",
            "BrokenResourceError",
            # aiohttp.
            "ClientConnectionError",
            "ClientOSError",
            "ClientPayloadError",
            "ServerConnectionError",
            "ServerDisconnectedError",
            # requests and urllib3.
            "ChunkedEncodingError",
            "NewConnectionError",
            "NameResolutionError",
            "MaxRetryError",
            # botocore and websockets.
            "EndpointConnectionError",
            "ConnectionClosedError",
            "ResponseStreamingError",
        ),
        _K.CONNECTION,
    ),
    # urllib3 raises it for too many answers of a bad status.
    "ResponseError": _K.ERROR,
    "RateLimitError": _K.RATE_LIMIT,
    "AuthenticationError": _K.AUTH,
    "PermissionDeniedError": _K.AUTH,
    # There are no credentials, or none that can be renewed: botocore, google-auth, azure-identity.
    "NoCredentialsError": _K.AUTH,
    "PartialCredentialsError": _K.AUTH,
    "CredentialRetrievalError": _K.AUTH,
    "TokenRetrievalError": _K.AUTH,
    "DefaultCredentialsError": _K.AUTH,
    "RefreshError": _K.AUTH,
    "ClientAuthenticationError": _K.AUTH,
    "NotFoundError": _K.NOT_FOUND,
    "ContextWindowExceededError": _K.CONTEXT_WINDOW,
    "ContentPolicyViolationError": _K.CONTENT_POLICY,
    "ContentFilterFinishReasonError": _K.CONTENT_POLICY,
    "BlockedPromptException": _K.CONTENT_POLICY,
    "LengthFinishReasonError": _K.BAD_REQUEST,
    # litellm's own count of money.
    "BudgetExceededError": _K.AUTH,
    "BadRequestError": _K.BAD_REQUEST,
    # botocore, before it sends anything.
    "ParamValidationError": _K.BAD_REQUEST,
    "UnprocessableEntityError": _K.BAD_REQUEST,
}


def _numbers(*names: str) -> frozenset[int]:
    # Windows has numbers of its own beside those of POSIX.
    return frozenset(number for name in names for wsa in ("", "WSA") if (number := getattr(errno, wsa + name, None)) is not None)


_TIMED_OUT = _numbers("ETIMEDOUT")
_OF_A_CONNECTION = _numbers(
    "EADDRNOTAVAIL",
    "ECONNABORTED",
    "ECONNREFUSED",
    "ECONNRESET",
    "EHOSTDOWN",
    "EHOSTUNREACH",
    "ENETDOWN",
    "ENETRESET",
    "ENETUNREACH",
    "ENONET",
    "ENOTCONN",
    "EPIPE",
    "EPROTO",
    "ESHUTDOWN",
)


def of_errno(number: int | None, said: str) -> FailureKind | None:
    """Tells what an OSError means.

    Args:
        number: Its number. asyncio gives none to an error that stands for several.
        said: Its message.

    Returns:
        The kind; None if it is not about the network.
    """
    if number is None:
        return _K.CONNECTION if said.startswith("Multiple exceptions: ") or "Connect call failed" in said else None
    return _K.TIMEOUT if number in _TIMED_OUT else _K.CONNECTION if number in _OF_A_CONNECTION else None


# Codes that tell more than any status that they come with.
_BY_CODE = {
    **dict.fromkeys(
        (
            "contextlengthexceeded",
            "contextwindowexceeded",
            "contextlimitexceeded",
            "exceedcontextsizeerror",
            "stringabovemaxlength",
            "requesttoolarge",
            "requestentitytoolarge",
            "payloadtoolarge",
        ),
        _K.CONTEXT_WINDOW,
    ),
    **dict.fromkeys(
        (
            "contentfilter",
            "contentpolicyviolation",
            "responsibleaipolicyviolation",
            "moderationblocked",
            "cyberpolicy",
            "cyberpolicyviolation",
            "datainspectionfailed",
            "prohibitedcontent",
        ),
        _K.CONTENT_POLICY,
    ),
    **dict.fromkeys(
        (
            # Money.
            "insufficientquota",
            "exceededcurrentquotaerror",
            "billinghardlimitreached",
            "billingnotactive",
            "billingerror",
            "billingdisabled",
            "budgetexceeded",
            "enforcedspendlimitreached",
            "insufficientbalance",
            "insufficientcredits",
            "insufficientfunds",
            "paymentrequired",
            "arrearage",
            # Keys and accounts.
            "invalidapikey",
            "apikeyinvalid",
            "incorrectapikey",
            "authenticationerror",
            "accountdeactivated",
            "accountsuspended",
            "organizationdisabled",
            "consumersuspended",
            "servicedisabled",
            # AWS.
            "accessdenied",
            "accessdeniedexception",
            "expiredtoken",
            "expiredtokenexception",
            "unrecognizedclientexception",
            "invalidclienttokenid",
            "invalidsignatureexception",
            "signaturedoesnotmatch",
            "incompletesignature",
            "missingauthenticationtoken",
            "missingauthenticationtokenexception",
        ),
        _K.AUTH,
    ),
    **dict.fromkeys(
        (
            "modelnotfound",
            "modelnotfounderror",
            "modelnotexist",
            "modelnotsupported",
            "modeldecommissioned",
            "modeldeprecated",
            "modelretired",
            "invalidmodel",
            "unknownmodel",
            "unavailablemodel",
            "deploymentnotfound",
            "resourcenotfoundexception",
        ),
        _K.NOT_FOUND,
    ),
    # OpenAI's 404 for a path that no account has. The request is wrong, not the deployment.
    "unknownurl": _K.BAD_REQUEST,
    "modeltimeoutexception": _K.TIMEOUT,
    **dict.fromkeys(
        (
            "modelnotreadyexception",
            "modelerrorexception",
            "modelstreamerrorexception",
            "internalserverexception",
            "serviceunavailableexception",
            # Groq's status 498.
            "capacityexceeded",
        ),
        _K.ERROR,
    ),
    **dict.fromkeys(
        (
            "ratelimitexceeded",
            "userratelimitexceeded",
            "ratelimiterror",
            "toomanyrequests",
            "toomanyrequestsexception",
            "requestlimitexceeded",
            "limitexceededexception",
            "servicequotaexceededexception",
        ),
        _K.RATE_LIMIT,
    ),
}

# Codes that count only without a status: in the middle of a stream, and in gRPC.
_BY_CODE_ALONE = {
    # Anthropic.
    "invalidrequesterror": _K.BAD_REQUEST,
    "permissionerror": _K.AUTH,
    "notfounderror": _K.NOT_FOUND,
    "timeouterror": _K.TIMEOUT,
    "apierror": _K.ERROR,
    "overloadederror": _K.ERROR,
    # OpenAI and those that follow it.
    "badrequest": _K.BAD_REQUEST,
    "badrequesterror": _K.BAD_REQUEST,
    "unprocessableentity": _K.BAD_REQUEST,
    "servererror": _K.ERROR,
    "internalservererror": _K.ERROR,
    "internalerror": _K.ERROR,
    "serviceunavailable": _K.ERROR,
    "serviceunavailableerror": _K.ERROR,
    "badgateway": _K.ERROR,
    "engineoverloaded": _K.ERROR,
    "overloaded": _K.ERROR,
    "gatewaytimeout": _K.TIMEOUT,
    "requesttimeout": _K.TIMEOUT,
    "timeout": _K.TIMEOUT,
    "forbidden": _K.AUTH,
    "unauthorized": _K.AUTH,
    "validationexception": _K.BAD_REQUEST,
    # gRPC (https://grpc.io/docs/guides/status-codes/) and Google.
    "cancelled": _K.CANCELLED,
    "unknown": _K.ERROR,
    "invalidargument": _K.BAD_REQUEST,
    "deadlineexceeded": _K.TIMEOUT,
    "notfound": _K.NOT_FOUND,
    "alreadyexists": _K.ERROR,
    "permissiondenied": _K.AUTH,
    "resourceexhausted": _K.RATE_LIMIT,
    "failedprecondition": _K.BAD_REQUEST,
    "aborted": _K.ERROR,
    "outofrange": _K.BAD_REQUEST,
    "unimplemented": _K.ERROR,
    "internal": _K.ERROR,
    "unavailable": _K.ERROR,
    "dataloss": _K.ERROR,
    "unauthenticated": _K.AUTH,
}


# If a body has codes of several kinds, the first of these kinds counts.
_ORDER = {
    kind: i
    for i, kind in enumerate((_K.CONTEXT_WINDOW, _K.CONTENT_POLICY, _K.AUTH, _K.NOT_FOUND, _K.TIMEOUT, _K.ERROR, _K.RATE_LIMIT))
}


def of_codes(codes: list[str]) -> FailureKind | None:
    """Tells what codes mean under any status.

    Args:
        codes: The codes.

    Returns:
        The kind; None if they leave it to the status.
    """
    kinds = []
    for code in codes:
        # AWS and Alibaba send codes that begin so. Alibaba sends words for money beside them. litellm gives
        # ``throttlingerror`` to every 429.
        if code.startswith("throttl") and code != "throttlingerror":
            return _K.RATE_LIMIT
        if (kind := _BY_CODE.get(code)) is not None:
            kinds.append(kind)
    if len(kinds) < 2:
        return kinds[0] if kinds else None
    return min(kinds, key=_ORDER.__getitem__)


def of_codes_alone(codes: list[str]) -> FailureKind | None:
    """Tells what codes mean where there is no status.

    Args:
        codes: The codes.

    Returns:
        The kind that the first one tells; None if none does.
    """
    return next((kind for code in codes if (kind := _BY_CODE_ALONE.get(code)) is not None), None)

"""A service of several workers behind one port, which together heed one limit.

    uvicorn --app-dir examples workers:app --workers 4

All workers name the same file, so they share the quota of their account. No server is needed. Without
``shared`` each worker would admit the whole quota.
"""

import os
import time

from fastapi import FastAPI, HTTPException
from turnout import Deployment, Limit, Quota, RateLimitExceeded, Router
from turnout.shared import File

account = Quota("account", Limit(requests=int(os.environ.get("REQUESTS", "600")), per=float(os.environ.get("SECONDS", "60"))))
router = Router(
    [Deployment("eu", "gpt-4o", quotas=[account]), Deployment("us", "gpt-4o", quotas=[account])],
    shared=File(os.environ.get("LEDGER")),
)
app = FastAPI()
# What was admitted stays written when a worker is killed.
admissions = os.open(os.environ.get("ADMISSIONS", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


@app.get("/ask")
def ask() -> int:
    """Answer if the quota has room. The answer is the worker's process, also in the header of a refusal."""
    process = os.getpid()
    try:
        with router.acquire("gpt-4o"):
            os.write(admissions, f"{time.time():.6f} {process}\n".encode())
            return process  # here the provider would be asked
    except RateLimitExceeded as refused:
        headers = {"Retry-After": f"{refused.retry_after or 1.0:.3f}", "X-Process": str(process)}
        raise HTTPException(429, "the quota is used up", headers) from refused

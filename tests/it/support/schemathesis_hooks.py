"""Every request of schemathesis comes from another address, as a proxy would tell it, and none revokes the token it is sent with.

It sends wrong tokens to each operation and wants each refused with 401 by itself; from one address it would have to wait (429).
"""

import itertools

import requests.adapters
import schemathesis

numbers = itertools.count(1)
send = requests.adapters.HTTPAdapter.send


def from_another_address(self, request, **kwargs):
    n = next(numbers)
    request.headers["X-Forwarded-For"] = f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
    return send(self, request, **kwargs)


requests.adapters.HTTPAdapter.send = from_another_address


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.path_parameters and case.path_parameters.get("name") == "operator":
        case.path_parameters["name"] = "reports"

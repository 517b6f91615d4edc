"""Canaille, an OpenID Connect provider, with three people in it. Arguments: port, redirect address, client secret."""

import logging
import os
import sys

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

from werkzeug.serving import make_server

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend

port, redirect_uri, secret = int(sys.argv[1]), sys.argv[2], sys.argv[3]
logging.disable(logging.CRITICAL)
app = create_app(
    {
        "SECRET_KEY": os.urandom(16).hex(),
        "SERVER_NAME": f"127.0.0.1:{port}",
        "PREFERRED_URL_SCHEME": "http",
        "CANAILLE": {"DATABASE": "memory", "JAVASCRIPT": False, "HTMX": False, "CAPTCHA_ENABLED": False, "SMTP": None},
        "CANAILLE_OIDC": {},
    },
    env_file=os.devnull,
)
with app.app_context():
    people = {}
    for name in ["olga", "victor", "nora"]:
        person = models.User(
            user_name=name,
            formatted_name=name.title(),
            family_name=name.title(),
            display_name=f"{name}.staff",
            emails=[f"{name}@staff.example"],
            password="a password of the issuer",
        )
        Backend.instance.save(person)
        people[name] = person
    for group, name in [("presence-operators", "olga"), ("helpdesk", "victor"), ("kitchen", "nora")]:
        Backend.instance.save(models.Group(display_name=group, members=[people[name]]))
    client = models.Client(
        client_id="presence",
        client_name="Presence operations",
        client_uri="http://127.0.0.1",
        client_secret=secret,
        redirect_uris=[redirect_uri],
        post_logout_redirect_uris=[redirect_uri.replace("/sign-in/callback", "/sign-in")],
        grant_types=["authorization_code"],
        response_types=["code"],
        scope=["openid", "profile", "email", "groups"],
        token_endpoint_auth_method="client_secret_basic",
        id_token_signed_response_alg="RS256",
    )
    Backend.instance.save(client)
    client.audience = [client]
    Backend.instance.save(client)
make_server("127.0.0.1", port, app, threaded=True).serve_forever()

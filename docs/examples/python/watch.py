#!/usr/bin/env python3
"""A third-party client of presence-cloud: ordinary grpcio, nothing of presence-bridge but the proto files.

    watch.py enroll --cloud https://presence.example.com:8443 < code.txt
    watch.py get ann@contoso.com bert@contoso.com
    watch.py watch ann@contoso.com bert@contoso.com --for 60

Prints one JSON object per line. The head of proto/presence/bridge/v1/presence.proto is the contract; the comments here say
which part of it each step keeps. README.md beside this file walks through it.

Exit codes: 0 ended as asked, 1 something is wrong that trying again cannot mend, 2 wrong usage, 3 nothing was received within
the time or tries allowed.
"""

import argparse
import base64
import contextlib
import datetime
import importlib
import json
import os
import pathlib
import queue
import random
import socket
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PROTOCOL_VERSION = 1
AGENT_VERSION = "python-example/1"

# Limits of the contract: at most 1,000 names and 256 KiB per message up. A name has at most 320 bytes, so 700 always fit.
NAMES_PER_MESSAGE = 700

# A JWT may live 15 minutes. A fresh one is presented on the running stream after two thirds of its life.
TOKEN_SECONDS = 600

# Until the server has told how often it sends heartbeats.
FIRST_ANSWER_SECONDS = 30
MISSED_HEARTBEATS = 3

# What was not confirmed for so many readings is stale.
STALE_AFTER_CADENCES = 3
STALE_AT_LEAST_SECONDS = 15

# Who is in one of these states has no value any more.
ENDS_THE_VALUE = ("not found", "guest", "over plan", "no permission", "invalid")

# Waits between tries: random, up to a ceiling that doubles.
FIRST_WAIT_SECONDS = 1
LONGEST_WAIT_SECONDS = 60


class Failure(Exception):
    """Trying again cannot help: a person must act."""


# ---------------------------------------------------------------------------------------------------------------- stubs


def load_stubs(proto_root):
    """Makes Python code from the proto files in a temporary folder and imports it."""
    from grpc_tools import protoc

    include = pathlib.Path(importlib.import_module("grpc_tools").__file__).parent / "_proto"
    files = [f"presence/bridge/v1/{name}.proto" for name in ("presence", "enrollment")]
    with tempfile.TemporaryDirectory(prefix="presence-stubs-") as out:
        arguments = ["protoc", f"-I{proto_root}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}"]
        if protoc.main([*arguments, *files]) != 0:
            raise Failure(f"the proto files under {proto_root} could not be compiled; name their folder with --proto")
        sys.path.insert(0, out)
        try:
            names = ["presence_pb2", "presence_pb2_grpc", "enrollment_pb2", "enrollment_pb2_grpc"]
            return [importlib.import_module(f"presence.bridge.v1.{name}") for name in names]
        finally:
            sys.path.remove(out)


# ------------------------------------------------------------------------------------------------------------- identity


def write_private(path, data):
    """Writes a file that only its owner can read, as a whole or not at all."""
    temporary = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_or_make_key(path):
    """The private key. It is on disk before the cloud hears of it: if the answer to Enroll is lost, the same key asks again."""
    if path.exists():
        return serialization.load_pem_private_key(path.read_bytes(), password=None)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(path, pem)
    return key


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Identity:
    """What Enroll gave us, and the key it is bound to."""

    def __init__(self, state):
        try:
            self.data = json.loads((state / "identity.json").read_text())
            self.key = serialization.load_pem_private_key((state / "key.pem").read_bytes(), password=None)
        except FileNotFoundError:
            raise Failure(f"not enrolled yet: there is no identity in {state}; run the enroll command first") from None

    def token(self):
        """A suite JWT, as described at the head of enrollment.proto. No JWT library is needed for that."""
        now = int(time.time())
        header = {"alg": "EdDSA", "typ": "suite+jwt", "kid": self.data["key_id"]}
        claims = {
            "iss": self.data["suite_id"],
            "sub": self.data["suite_id"],
            "aud": self.data["audience"],
            "tid": self.data["tenant_id"],
            "iat": now,
            "nbf": now,
            "exp": now + TOKEN_SECONDS,
            "jti": str(uuid.uuid4()),
        }
        signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{base64url(self.key.sign(signed.encode()))}"

    def metadata(self):
        return [("authorization", f"Bearer {self.token()}")]


def open_channel(url, ca_file):
    """TLS always, but towards this machine itself."""
    parts = urllib.parse.urlsplit(url)
    options = [
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.max_receive_message_length", (1 << 20) + (64 << 10)),
        # We wait between tries ourselves: grpcio's own waits (up to two minutes) must not come on top.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    if not parts.hostname:
        raise Failure("the address of the cloud must look like https://presence.example.com:8443")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if parts.scheme == "https":
        roots = pathlib.Path(ca_file).read_bytes() if ca_file else None
        return grpc.secure_channel(f"{host}:{parts.port or 443}", grpc.ssl_channel_credentials(roots), options)
    if parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost"):
        return grpc.insecure_channel(f"{host}:{parts.port or 80}", options)
    raise Failure("the address must begin with https:// (http:// is only allowed towards this machine itself)")


def enroll(arguments, stubs):
    _, _, pb, services = stubs
    state = arguments.state
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (state / "identity.json").exists():
        raise Failure(f"enrolled already; remove {state} to begin anew")
    text = sys.stdin.read(1024) if arguments.code_file == "-" else pathlib.Path(arguments.code_file).read_text()
    # The proof is made over the code without blanks and dashes, in upper case.
    code = "".join(c for c in text if not c.isspace() and c != "-").upper()
    if not code:
        raise Failure("there was no enrolment code on standard input or in --code-file")
    key = load_or_make_key(state / "key.pem")
    public_key = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    request = pb.EnrollRequest(
        code=code,
        public_key=public_key,
        proof=key.sign(b"presence-bridge enrol v1\n" + code.encode() + b"\n" + public_key),
        suite_name=arguments.name,
        agent_version=AGENT_VERSION,
    )
    with open_channel(arguments.cloud, arguments.ca) as channel:
        answer = services.EnrollmentServiceStub(channel).Enroll(request, timeout=15)
    identity = {
        "cloud": arguments.cloud,
        "ca": arguments.ca and str(pathlib.Path(arguments.ca).absolute()),
        "suite_id": answer.suite_id,
        "key_id": answer.key_id,
        "tenant_id": answer.tenant_id,
        "tenant_name": answer.tenant_name,
        "audience": answer.audience,
    }
    write_private(state / "identity.json", json.dumps(identity, indent=2).encode())
    say("enrolled", suite_id=answer.suite_id, tenant_id=answer.tenant_id, tenant_name=answer.tenant_name)
    return 0


# --------------------------------------------------------------------------------------------------------------- output


def say(event, **fields):
    """One JSON object per line, without what is not known."""
    known = {name: value for name, value in fields.items() if value is not None and value != ""}
    print(json.dumps({"event": event, **known, "at": rfc3339(time.time())}), flush=True)


def rfc3339(seconds):
    at = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def enum_text(enum, number, separator=""):
    """AVAILABILITY_DO_NOT_DISTURB: "DoNotDisturb"; COVERAGE_STATE_NOT_FOUND: "not found". None for zero and unknown numbers."""
    value = enum.values_by_number.get(number)
    if number == 0 or value is None:
        return None
    common = os.path.commonprefix([v.name for v in enum.values])
    words = value.name[common.rindex("_") + 1 :].lower().split("_")
    return separator.join(words) if separator else "".join(word.capitalize() for word in words)


def seconds_of(timestamp):
    return timestamp.seconds + timestamp.nanos / 1e9


def presence_fields(person):
    """A presence as JSON. An enum value we do not know arrives as zero, with Microsoft's text beside it."""
    enums = {field.name: field.enum_type for field in person.DESCRIPTOR.fields if field.enum_type}
    location = enum_text(enums["work_location"], person.work_location)
    return {
        "upn": person.upn,
        "availability": enum_text(enums["availability"], person.availability) or person.availability_raw or "Unknown",
        "activity": enum_text(enums["activity"], person.activity) or person.activity_raw or "Unknown",
        "out_of_office": person.out_of_office if person.HasField("out_of_office") else None,
        "status_message": person.status_message if person.HasField("status_message") else None,
        "work_location": location and location[0].lower() + location[1:],
        "sequence": person.sequence,
        "changed_at": rfc3339(seconds_of(person.changed_at)),
        "confirmed_at": rfc3339(seconds_of(person.confirmed_at)),
    }


def coverage_word(person):
    return enum_text(person.DESCRIPTOR.fields_by_name["state"].enum_type, person.state, " ") or "unknown"


def say_coverage(person):
    say("coverage", upn=person.upn, state=coverage_word(person), detail=person.detail)


def say_tenant_status(status):
    state = enum_text(status.DESCRIPTOR.fields_by_name["state"].enum_type, status.state, " ")
    cadence = int(seconds_of(status.cadence) * 1000) if status.HasField("cadence") else None
    say(
        "tenant_status",
        state=state or "unknown",
        cause=status.cause,
        remedy=status.remedy,
        code=status.code,
        cadence_ms=cadence,
    )


# ------------------------------------------------------------------------------------------------------------------ get


def get(arguments, stubs):
    pb, services, _, _ = stubs
    identity = Identity(arguments.state)
    with open_channel(identity.data["cloud"], identity.data["ca"]) as channel:
        request = pb.GetPresenceRequest(upns=arguments.upns)
        answer = services.PresenceServiceStub(channel).GetPresence(request, metadata=identity.metadata(), timeout=15)
    for person in answer.presences:
        say("presence", **presence_fields(person))
    for person in answer.coverage:
        say_coverage(person)
    say_tenant_status(answer.tenant_status)
    return 0 if answer.presences else 3


# ---------------------------------------------------------------------------------------------------------------- watch


class Held:
    """What we hold: values by name, and the position up to which they are complete. Kept in a file, a later run resumes."""

    def __init__(self, path, upns):
        self.path = path
        self.values, self.position, self.leftover = {}, None, set()
        self.freshness = self.cadence = None
        self.since_heartbeat = {}
        if path and path.exists():
            kept = json.loads(path.read_text())
            names = {upn.lower() for upn in upns}
            self.values = {name: value for name, value in kept["values"].items() if name in names}
            self.position = tuple(kept["position"])

    def keep(self):
        if self.path and self.position:
            # Values from before a lost position may not be claimed as held.
            values = {name: value for name, value in self.values.items() if name not in self.leftover}
            write_private(self.path, json.dumps({"position": self.position, "values": values}).encode())

    def opening(self, upns):
        """Contract, "Resuming": `open` names only the people whose value we hold, everybody else follows in `add`."""
        if not self.position:
            return upns, []
        held = [upn for upn in upns if upn.lower() in self.values and upn.lower() not in self.leftover]
        names = {upn.lower() for upn in held}
        return held, [upn for upn in upns if upn.lower() not in names]

    def opened(self, opened):
        self.freshness = None
        if not opened.resumed:
            # Contract: forget what we hold, but only as soon as the snapshot is complete. Until then it is stale.
            self.leftover, self.position = set(self.values), None

    def apply(self, presences):
        for person in presences.presences:
            name = person.upn.lower()
            old = self.values.get(name)
            # Contract, "Order": for one person sequences never go back within an epoch. Repeats are harmless.
            if old and name not in self.leftover and old["sequence"] > person.sequence:
                continue
            self.values[name] = presence_fields(person)
            self.leftover.discard(name)
            self.since_heartbeat[name] = seconds_of(person.confirmed_at)
            yield name
        if presences.snapshot_complete:
            for name in list(self.leftover):
                self.forget(name)
        self.advance(presences)

    def forget(self, name):
        self.leftover.discard(name)
        if value := self.values.pop(name, None):
            say("gone", upn=value["upn"])

    def advance(self, message):
        if message.HasField("position") and not self.leftover:
            self.position = (message.position.epoch, message.position.sequence)

    def heartbeat(self, heartbeat):
        """Contract, "Freshness": one time for everybody, but for the exceptions."""
        self.advance(heartbeat)
        self.freshness, self.since_heartbeat = None, {}
        if heartbeat.HasField("confirmed_as_of"):
            # With the server's clock: our own may be wrong.
            self.as_of, self.sent_at = seconds_of(heartbeat.confirmed_as_of), seconds_of(heartbeat.sent_at)
            self.freshness = (time.monotonic(), {e.upn.lower() for e in heartbeat.exceptions})

    def is_fresh(self, name):
        if not self.freshness or not self.cadence or name in self.leftover:
            return False
        received, exceptions = self.freshness
        if name in exceptions:
            return False
        # A heartbeat speaks of what came before it. Somebody watched since then may have an old value.
        as_of = self.since_heartbeat.get(name, self.as_of)
        age = self.sent_at - as_of + time.monotonic() - received
        return age <= max(self.cadence * STALE_AFTER_CADENCES, STALE_AT_LEAST_SECONDS)

    def counts(self):
        fresh = sum(1 for name in self.values if self.is_fresh(name))
        return {"fresh": fresh, "stale": len(self.values) - fresh}


def parts(names):
    return [names[i : i + NAMES_PER_MESSAGE] for i in range(0, len(names), NAMES_PER_MESSAGE)]


class Ended(Exception):
    """As much was received, or as much time has passed, as was asked for."""


class Watcher:
    """Keeps a stream open, resuming where it broke."""

    def __init__(self, arguments, stubs):
        self.pb, services, _, _ = stubs
        self.identity = Identity(arguments.state)
        data = self.identity.data
        self.stub = services.PresenceServiceStub(open_channel(data["cloud"], data["ca"]))
        self.upns = list(dict.fromkeys(arguments.upns))
        self.held = Held(arguments.keep, self.upns)
        self.wanted, self.received = arguments.count, 0
        self.deadline = time.monotonic() + arguments.length if arguments.length else None

    def run(self):
        failures = 0
        try:
            while True:
                began = time.monotonic()
                reason, told = self.one_stream()
                failures = 0 if time.monotonic() - began > LONGEST_WAIT_SECONDS else failures
                ceiling = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(failures, 10))
                # Told when to come back, never earlier; else at random, so that not everybody comes at once.
                wait = random.uniform(0, ceiling) if told is None else told + random.uniform(0, 0.5)
                failures += 1
                self.held.freshness = None
                say("disconnected", why=reason, retry_in_ms=int(wait * 1000))
                self.sleep(wait)
        except Ended:
            return 0 if self.received else 3
        finally:
            self.held.keep()

    def left(self):
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Ended
        return left

    def sleep(self, wait):
        left = self.left()
        time.sleep(wait if left is None else min(wait, left))
        self.left()

    def requests(self, outgoing):
        """What goes up: the opening, then whatever is put into the queue, until None."""
        while (message := outgoing.get()) is not None:
            yield message

    def one_stream(self):
        """Until the stream ends. Returns why, and after how many seconds to come back if the server told it."""
        pb, held = self.pb, self.held
        outgoing, incoming = queue.Queue(), queue.Queue(maxsize=16)
        first, others = held.opening(self.upns)
        opening, *more = parts(first) or [[]]
        resume = pb.Position(epoch=held.position[0], sequence=held.position[1]) if held.position else None
        open_message = pb.Open(
            protocol_version=PROTOCOL_VERSION,
            agent_version=AGENT_VERSION,
            watch=opening,
            resume=resume,
            # A list that does not fit into `open` goes on in so many `add`s that still belong to the opening.
            continued_in_adds=len(more),
        )
        outgoing.put(pb.WatchRequest(open=open_message))
        for names in more + parts(others):
            outgoing.put(pb.WatchRequest(add=pb.AddWatched(upns=names)))
        call = self.stub.Watch(self.requests(outgoing), metadata=self.identity.metadata())
        closing = threading.Event()

        def read():
            end = None
            try:
                for message in call:
                    while not closing.is_set():
                        with contextlib.suppress(queue.Full):
                            incoming.put(message, timeout=0.2)
                            break
            except grpc.RpcError as error:
                end = error
            while not closing.is_set():
                with contextlib.suppress(queue.Full):
                    incoming.put(end, timeout=0.2)
                    break

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            return self.converse(outgoing, incoming)
        finally:
            closing.set()
            outgoing.put(None)
            call.cancel()
            reader.join()

    def converse(self, outgoing, incoming):
        pb, held = self.pb, self.held
        patience = FIRST_ANSWER_SECONDS
        renew_at = time.monotonic() + TOKEN_SECONDS * 2 / 3
        silent_since = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= renew_at:
                # A stream can outlive the credential it was opened with.
                outgoing.put(pb.WatchRequest(renew_credential=pb.RenewCredential(token=self.identity.token())))
                renew_at = now + TOKEN_SECONDS * 2 / 3
            if now - silent_since >= patience:
                return "no sign of life for three heartbeat intervals", None
            waits = [silent_since + patience - now, renew_at - now]
            left = self.left()
            try:
                message = incoming.get(timeout=min(waits if left is None else [*waits, left]))
            except queue.Empty:
                continue
            silent_since = time.monotonic()
            if message is None:
                return "the server closed the stream", None
            if isinstance(message, grpc.RpcError):
                return explain(message), None
            kind = message.WhichOneof("response")
            if kind == "opened":
                held.opened(message.opened)
                patience = seconds_of(message.opened.heartbeat_interval) * MISSED_HEARTBEATS or FIRST_ANSWER_SECONDS
                say("connected", resumed=message.opened.resumed, max_watched=message.opened.max_watched)
            elif kind == "presences":
                snapshot = message.presences.kind == pb.PRESENCES_KIND_SNAPSHOT
                for name in held.apply(message.presences):
                    say("presence", **held.values[name], snapshot=snapshot, fresh=held.is_fresh(name))
                    self.received += 1
                if message.presences.snapshot_complete:
                    say("snapshot_complete")
                # Only now: in the middle of a message its position has not been reached.
                if self.wanted and self.received >= self.wanted:
                    raise Ended
            elif kind == "coverage":
                for person in message.coverage.people:
                    say_coverage(person)
                    if coverage_word(person) in ENDS_THE_VALUE:
                        held.forget(person.upn.lower())
            elif kind == "tenant_status":
                status = message.tenant_status
                held.cadence = seconds_of(status.cadence) if status.HasField("cadence") else None
                say_tenant_status(status)
            elif kind == "heartbeat":
                held.heartbeat(message.heartbeat)
                as_of = message.heartbeat.confirmed_as_of
                known = message.heartbeat.HasField("confirmed_as_of")
                say(
                    "heartbeat",
                    confirmed_as_of=rfc3339(seconds_of(as_of)) if known else None,
                    exceptions=len(message.heartbeat.exceptions),
                    watched=len(self.upns),
                    **held.counts(),
                )
            elif kind == "go_away":
                away = message.go_away
                held.advance(away)
                if not away.reconnect:
                    raise Failure(f"the server ends the connection: {away.detail}")
                told = seconds_of(away.reconnect_after) if away.HasField("reconnect_after") else None
                return f"the server asks to come back: {away.detail}", told
            # Anything else is a message of a later version of the contract: not understood, not harmful.


def explain(error):
    """What an error means; raises Failure when trying again cannot help."""
    code, text = error.code(), error.details()
    if code == grpc.StatusCode.UNAUTHENTICATED:
        text += " (is the clock of this machine right? if it is, the suite was revoked: enrol it again)"
    message = f"{code.name}: {text}"
    final = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
    if code in final:
        raise Failure(message)
    return message


# ----------------------------------------------------------------------------------------------------------------- main


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="A third-party client of presence-cloud.")
    parser.add_argument("--state", type=pathlib.Path, default=pathlib.Path("presence-state"), help="folder for key and identity")
    parser.add_argument("--proto", type=pathlib.Path, default=here.parents[2] / "proto", help="folder of the proto files")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("enroll", help="trade a one-time code for an identity")
    one.add_argument("--cloud", required=True, help="for example https://presence.example.com:8443")
    one.add_argument("--code-file", default="-", help='file with the enrolment code; "-" is standard input')
    one.add_argument("--name", default=socket.gethostname()[:100], help="a name by which people recognise this suite")
    one.add_argument("--ca", help="certificates to trust instead of the usual ones, PEM")
    one = commands.add_parser("get", help="read presence once")
    one.add_argument("upns", nargs="+")
    one = commands.add_parser("watch", help="print every change")
    one.add_argument("upns", nargs="+")
    one.add_argument("--for", dest="length", type=float, metavar="SECONDS", help="end after this time")
    one.add_argument("--count", type=int, metavar="N", help="end after the message with the Nth presence")
    one.add_argument("--keep", type=pathlib.Path, metavar="FILE", help="keep what is known there, and resume from it")
    arguments = parser.parse_args()
    try:
        stubs = load_stubs(arguments.proto)
        if arguments.command == "watch":
            return Watcher(arguments, stubs).run()
        return {"enroll": enroll, "get": get}[arguments.command](arguments, stubs)
    except Failure as failure:
        print(f"watch.py: {failure}", file=sys.stderr)
    except grpc.RpcError as error:
        print(f"watch.py: {error.code().name}: {error.details()}", file=sys.stderr)
    except OSError as error:
        print(f"watch.py: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())

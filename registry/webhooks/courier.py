"""The courier: sends webhooks' messages over HTTP alongside the relay, without delaying it.

One message at a time for each webhook, several webhooks at once: a slow receiver delays nobody else.
"""

import asyncio
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus

import httpx
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks import Webhook

from registry.base.errors import RegistryError, first_line
from registry.webhooks import sending
from registry.webhooks.addresses import host_of, look_up, require_public, require_sendable
from registry.webhooks.sending import Message, Outcome

log = structlog.get_logger("melo.webhooks")

SECONDS_PER_ATTEMPT = 10.0  # from name resolution to the answer's headers
_AT_ONCE = 20  # webhooks


@dataclass
class Courier:
    sessions: sessionmaker[Session]
    allow_private: bool
    poll_seconds: float
    stopping: threading.Event
    seconds_per_attempt: float = SECONDS_PER_ATTEMPT
    count: Callable[[str], None] = lambda fate: None  # called for each message: delivered, failed or retried later
    _tls: ssl.SSLContext = field(default_factory=httpx.create_ssl_context)
    # Separate threads: name resolution cannot be interrupted, and the database's threads must not wait for it.
    _names: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_AT_ONCE, "names"))

    def run(self) -> None:
        """Run until `stopping` is set. What is being sent then is sent again by the next courier."""
        try:
            asyncio.run(self._run())
        finally:
            self._names.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        rounds: set[asyncio.Task[None]] = set()
        while not self.stopping.is_set():
            for message in await self._patiently(lambda: self._look(_AT_ONCE - len(rounds))):
                task = asyncio.create_task(self._round(message))
                rounds.add(task)
                task.add_done_callback(rounds.discard)
            await asyncio.to_thread(self.stopping.wait, self.poll_seconds)
        for task in rounds:
            task.cancel()
        await asyncio.gather(*rounds, return_exceptions=True)

    async def _patiently(self, act: Callable[[], list[Message]]) -> list[Message]:
        """Call `act`, or return an empty list while the database is unreachable: the next look tries again."""
        try:
            return await asyncio.to_thread(act)
        except SQLAlchemyError as error:
            log.warning("away", error=first_line(error))
            return []

    def _look(self, room: int) -> list[Message]:
        with self.sessions.begin() as session:
            sending.plan(session)
        return self._claim(room) if room > 0 else []

    def _claim(self, limit: int, webhook_id: int | None = None) -> list[Message]:
        with self.sessions.begin() as session:
            return sending.claim(session, limit, webhook_id)

    def _report(self, message: Message, outcome: Outcome) -> None:
        with self.sessions.begin() as session:
            ended = sending.report(session, message, outcome)
        fate = "delivered" if not outcome.error else "failed" if ended else "retried"
        self.count(fate)
        log.info(
            fate,
            webhook=message.webhook_id,
            message=message.message_id,
            status=outcome.status,
            error=outcome.error or None,
        )

    async def _round(self, message: Message) -> None:
        """Send a message, and then whatever is waiting behind it for the same webhook."""
        waiting = [message]
        while waiting and not self.stopping.is_set():
            outcome = await self.attempt(waiting[0])
            try:
                await asyncio.to_thread(self._report, waiting[0], outcome)
            except SQLAlchemyError as error:  # the message is sent again at its next attempt
                log.warning("away", error=first_line(error))
                return
            waiting = await self._patiently(partial(self._claim, 1, message.webhook_id))

    async def attempt(self, message: Message) -> Outcome:
        """Send a message once. Any failure becomes the outcome, not an exception."""
        try:
            async with asyncio.timeout(self.seconds_per_attempt):
                status = await self._post(message)
        except TimeoutError:
            return Outcome(None, f"It did not answer within {self.seconds_per_attempt:g} seconds.")
        except RegistryError as error:
            return Outcome(None, error.detail)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            return Outcome(None, f"It could not be reached: {error or type(error).__name__}.")
        if HTTPStatus(200) <= status < HTTPStatus(300):
            return Outcome(status)
        followed = " Redirects are not followed." if 300 <= status < 400 else ""
        return Outcome(status, f"It answered {_named(status)}.{followed}")

    async def _post(self, message: Message) -> int:
        """Send the request and return the answer's status; its body is not read."""
        url = require_sendable(message.url, allow_private=self.allow_private)
        now = message.now
        headers = {
            "Host": url.netloc.decode("ascii"),
            "Content-Type": "application/json",
            "User-Agent": "melo-webhooks",
            "webhook-id": message.message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(message.secret).sign(message.message_id, now, message.body.decode()),
        }
        # A separate client for each message: a reused TLS connection was verified for a name, not for an address.
        async with httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=self.seconds_per_attempt) as http:
            failure: httpx.HTTPError | None = None
            for address in await self._addresses(url):
                # Connect to the address that was examined: the name could resolve to another a moment later.
                request = http.build_request(
                    "POST",
                    url.copy_with(host=address),
                    headers=headers,
                    content=message.body,
                    extensions={"sni_hostname": host_of(url)},
                )
                try:
                    answer = await http.send(request, stream=True, follow_redirects=False)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    failure = error
                    continue
                with suppress(httpx.HTTPError):
                    await answer.aclose()
                return answer.status_code
        raise failure or httpx.ConnectError(f"{host_of(url)} has no address.")

    async def _addresses(self, url: httpx.URL) -> list[str]:
        """Return the host's current addresses. Raises RegistryError if any of them is in a private network."""
        found = await asyncio.get_running_loop().run_in_executor(self._names, look_up, url)
        if not self.allow_private:
            require_public(url, found)
        return found


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)

"""Routes of pods. `{pod_id}` is the pod's id or the client_id it was made with.

A key of a pod sees its own pod only; a key of an inbox sees none.
"""

from __future__ import annotations

from litestar import Controller, Response, delete, get, patch, post
from litestar.params import FromPath, JSONBody

from agentmail_cp import bodies, idempotency, limits, pages, pods
from agentmail_cp.pods import NewPod, PodPatch
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.idempotency import Repeatable, answered, making
from agentmail_cp.web.inject import Asked, Caller, Config, Db
from agentmail_cp.web.listing import listing
from agentmail_cp.web.paths import restore


class Pods(Controller):
    """Pods of the caller's organisation."""

    path = "/pods"
    tags = ("Pods",)

    @post(operation_id="pods.create", guards=[needs("pod_create")], responses=making(bodies.Pod))
    async def create(
        self,
        caller: Caller,
        db: Db,
        settings: Config,
        once: Repeatable,
        data: JSONBody[bodies.CreatePod | None] = None,
    ) -> Response[bodies.Pod]:
        """Make a pod, or with a known client_id get the one that has it (200 instead of 201)."""
        wanted = data or bodies.CreatePod()
        async with db.transaction() as tx:
            claim = await once.claim(tx, "pod", caller.reach, wanted)
            if claim.made:
                again = pods.get(tx, caller.reach, claim.made.resource_id)
                return answered(claim, bodies.pod(await idempotency.replay(again)))
            made = await pods.create(
                tx,
                caller.reach,
                NewPod(name=wanted.name, client_id=wanted.client_id),
                limits=await limits.of(tx, settings, caller.organization_id),
            )
            await idempotency.complete(tx, claim, made.pod.pod_id, new=made.new)
        return answered(claim, bodies.pod(made.pod), new=made.new)

    @get(
        operation_id="pods.list",
        guards=[needs("pod_read")],
        responses=ERRORS,
        operation_class=listing("limit", "page_token", "ascending"),
    )
    async def list(self, asked: Asked, caller: Caller, db: Db) -> bodies.ListPods:
        """List pods, newest first."""
        limit = pages.limit(asked.text("limit"))
        async with db.reading() as tx:
            found, token = await pods.list_page(
                tx,
                caller.reach,
                limit=limit,
                page_token=asked.text("page_token"),
                ascending=asked.flag("ascending"),
            )
        shown = [bodies.pod(each) for each in found]
        return bodies.ListPods(len(shown), limit, shown, token)

    @get("/{pod_id:str}", operation_id="pods.get", guards=[needs("pod_read")], responses=ERRORS)
    async def get(self, pod_id: FromPath[str], caller: Caller, db: Db) -> bodies.Pod:
        """Get one pod."""
        async with db.reading() as tx:
            return bodies.pod(await pods.get(tx, caller.reach, restore(pod_id)))

    @patch(
        "/{pod_id:str}", operation_id="pods.update", guards=[needs("pod_update")], responses=ERRORS
    )
    async def update(
        self, pod_id: FromPath[str], data: JSONBody[bodies.UpdatePod], caller: Caller, db: Db
    ) -> bodies.Pod:
        """Change a pod's name, or how many inboxes it may have."""
        wanted = PodPatch(name=data.name, inbox_limit=data.inbox_limit)
        async with db.transaction() as tx:
            return bodies.pod(await pods.update(tx, caller.reach, restore(pod_id), wanted))

    @delete(
        "/{pod_id:str}", operation_id="pods.delete", guards=[needs("pod_delete")], responses=ERRORS
    )
    async def delete(self, pod_id: FromPath[str], caller: Caller, db: Db) -> None:
        """Delete a pod that has no inboxes, with its API keys, list entries and webhooks."""
        async with db.transaction() as tx:
            await pods.delete(tx, caller.reach, restore(pod_id))

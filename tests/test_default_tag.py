"""The default tag, which serves requests without tags."""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout import ConfigurationError, Deployment, NoAvailableDeployment, Router


def router_of(*tags: Sequence[str], default_tag: str | None = "default") -> Router:
    return Router(
        [Deployment(str(nth), "m", tags=given) for nth, given in enumerate(tags)], strategy="round_robin", default_tag=default_tag
    )


def served(router: Router, tags: Iterable[str] = (), **wishes: Any) -> set[str]:
    """The ids that serve a request, by picks, by leases and by what is explained."""
    wishes["tags"] = list(tags)
    rounds = len(router) * 2
    picked = {router.select("m", **wishes) for _ in range(rounds)}
    for _ in range(rounds):
        with router.acquire("m", **wishes) as lease:
            assert lease.deployment_id in picked
    assert {one.deployment_id for one in router.explain("m", **wishes).verdicts if one.gate is None} == picked
    return picked


def test_untagged_requests_go_to_the_default_tag() -> None:
    router = router_of(["free"], ["default"], [], ["paid", "default"])
    assert served(router) == {"1", "3"}
    assert served(router, ["free"]) == {"0"}
    assert served(router, ["paid", "default"]) == {"3"}


def test_tags_that_nobody_has_go_to_the_default_tag() -> None:
    router = router_of(["free"], ["default"], ["paid"])
    assert served(router, ["unknown"]) == {"1"}
    assert served(router, ["free", "paid"]) == {"1"}, "no deployment has both"
    assert served(router, ["free", "unknown"], tags_match="any") == {"0"}
    assert served(router, ["x", "y"], tags_match="any") == {"1"}


def test_without_the_default_tag_in_the_group_nothing_changes() -> None:
    router = router_of(["free"], [])
    assert served(router) == {"0", "1"}
    with pytest.raises(NoAvailableDeployment, match="tags"):
        router.select("m", tags=["unknown"])


def test_without_the_option_the_tag_is_a_tag_like_others() -> None:
    router = router_of(["default"], [], default_tag=None)
    assert served(router) == {"0", "1"}


def test_the_other_wishes_hold_too() -> None:
    router = router_of(["default"], ["default"], ["free"])
    assert served(router, exclude={"0"}) == {"1"}
    with pytest.raises(NoAvailableDeployment):
        router.select("m", only={"2"})


def test_a_tagged_deployment_that_is_busy_is_not_left_for_the_default() -> None:
    router = router_of(["default"], ["free"])
    router.cool_down("1", 60)
    with pytest.raises(NoAvailableDeployment):
        router.select("m", tags=["free"])


def test_explain_says_that_the_default_tag_serves() -> None:
    router = router_of(["default"], ["free"])
    [_, other] = router.explain("m").verdicts
    assert (other.gate, other.detail) == ("tags", "lacks the default tag, which serves here")


def test_the_option_can_be_changed() -> None:
    router = router_of(["default"], [], default_tag=None)
    router.configure(default_tag="default")
    assert router.default_tag == "default"
    assert served(router) == {"0"}
    router.configure(strategy="least_busy")
    assert router.default_tag == "default"
    router.configure(default_tag="")
    assert router.default_tag is None
    with pytest.raises(ConfigurationError, match="default_tag"):
        Router(default_tag="")
    with pytest.raises(TypeError, match="default_tag"):
        Router(default_tag=1)


def test_a_request_that_waits_keeps_to_the_default_tag() -> None:
    router = Router([Deployment("a", "m", tags=["default"], max_parallel_requests=1), Deployment("b", "m")], default_tag="default")
    with router.acquire("m") as lease:
        assert lease.deployment_id == "a"
        with pytest.raises(NoAvailableDeployment):
            router.acquire("m", timeout=0.01)


TAGS = st.lists(st.sampled_from(["default", "x", "y"]), max_size=2, unique=True)


@given(
    before=st.lists(TAGS, min_size=1, max_size=5),
    after=st.lists(st.tuples(st.integers(0, 5), TAGS | st.none()), max_size=5),
    asked=TAGS,
    match=st.sampled_from(["all", "any"]),
)
def test_who_serves_is_as_the_rule_says(
    before: list[list[str]], after: list[tuple[int, list[str] | None]], asked: list[str], match: str
) -> None:
    router = router_of(*before)
    tags = {str(nth): given for nth, given in enumerate(before)}
    for nth, changed in after:
        if changed is not None:
            router.add_deployment(Deployment(str(nth), "m", tags=changed))
            tags[str(nth)] = changed
        elif str(nth) in tags and len(tags) > 1:
            router.remove_deployment(str(nth))
            del tags[str(nth)]

    def having(wanted: list[str]) -> set[str]:
        rule = all if match == "all" else any
        return {one for one, given in tags.items() if not wanted or rule(tag in given for tag in wanted)}

    expected = having(asked) if asked else set()
    expected = expected or having(["default"]) or having(asked)
    if expected:
        assert served(router, asked, tags_match=match) == expected
    else:
        with pytest.raises(NoAvailableDeployment):
            router.select("m", tags=asked, tags_match=match)  # type: ignore[arg-type]


def waits(router: Router) -> threading.Thread:
    """Begins a request without tags that waits for the one place of the router."""
    ids: list[str] = []

    def wait() -> None:
        with router.acquire("m", timeout=30) as lease:
            ids.append(lease.deployment_id)

    thread = threading.Thread(target=wait, name="waits")
    thread.ids = ids  # type: ignore[attr-defined]
    thread.start()
    while not router.waiting("m"):
        pass
    return thread


def test_requests_that_wait_follow_what_changes() -> None:
    def change_facts(router: Router) -> None:
        router.add_deployment(Deployment("d", "m", max_parallel_requests=1))

    def replace_all(router: Router) -> None:
        router.set_deployments([Deployment("d", "m", max_parallel_requests=1)])

    def give_up_the_tag(router: Router) -> None:
        router.configure(default_tag="")
        router.add_deployment(Deployment("d", "m", tags=["other"], max_parallel_requests=1))

    def name_another(router: Router) -> None:
        router.configure(default_tag="other")
        router.add_deployment(Deployment("d", "m", tags=["other"], max_parallel_requests=1))

    for change in (change_facts, replace_all, give_up_the_tag, name_another):
        router = Router([Deployment("d", "m", tags=["default"], max_parallel_requests=1)], default_tag="default")
        held = router.acquire("m")
        thread = waits(router)
        change(router)
        held.release()
        thread.join()
        assert thread.ids == ["d"], change.__name__  # type: ignore[attr-defined]


def test_a_request_that_waits_takes_up_a_default_tag() -> None:
    router = Router([Deployment("a", "m", max_parallel_requests=1)], default_tag="default")
    held = router.acquire("m")
    thread = waits(router)
    router.add_deployment(Deployment("b", "m", tags=["default"]))
    thread.join()
    assert thread.ids == ["b"]  # type: ignore[attr-defined]
    held.release()

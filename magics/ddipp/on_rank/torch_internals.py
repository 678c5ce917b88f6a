"""Private names of torch that ranks depend on, each behind a function that says what it is for.

Tried with torch 2.15, and with 1.13 so far as the tests of fastai 1 go. A name that another version
does not have is a case here, not an error elsewhere: what depends on it is left out then.
Nothing here loads torch.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from typing import Any

#: Tables of torch.distributed that are keyed by group.
GROUP_TABLES = (
    "pg_map",
    "pg_names",
    "pg_group_ranks",
    "pg_backend_config",
    "pg_to_tag",
    "pg_coalesce_state",
    "pg_flight_recorder_hooks",
)


def c10d() -> Any:
    """Return ``torch.distributed.distributed_c10d``."""
    return sys.modules["torch.distributed"].distributed_c10d  # type: ignore[attr-defined]


def world() -> Any:
    """Return the tables of groups; None before torch 2.0."""
    return getattr(c10d(), "_world", None)


def living_groups() -> Any:
    """Return the groups of this process as a mapping."""
    tables = world()
    return c10d()._pg_map if tables is None else tables.pg_map


def group_count() -> int:
    """Return the number from which torch names the next group."""
    return int(getattr(world(), "group_count", 0))


def set_group_count(count: int) -> None:
    """Let the next group have the name `count`."""
    tables = world()
    if tables is not None:
        tables.group_count = count


def rename_group(group: Any, old: str, new: str, stand_in: Any = None) -> None:
    """Register a group under another name.

    Parameters
    ----------
    group : ProcessGroup
        That stands in torch's tables under the name `old`.
    old, new : str
        Its names.
    stand_in : ProcessGroup, optional
        Which takes its place in the tables; itself when not given.
    """
    tables = world()
    target = group if stand_in is None else stand_in
    for table in (getattr(tables, name, None) for name in GROUP_TABLES):
        if isinstance(table, dict) and group in table:
            table[target] = table.pop(group)
    tables.pg_names[target] = new
    old_tag, new_tag = f"ptd:{old}", f"ptd:{new}"
    for groups in tables.tags_to_pg.values():
        groups[:] = [target if one is group else one for one in groups]
    if old_tag in tables.tags_to_pg:
        tables.tags_to_pg[new_tag] = tables.tags_to_pg.pop(old_tag)
        tables.pg_to_tag[target] = new_tag
    c10d()._unregister_process_group(old)
    c10d()._register_process_group(new, target)
    target._set_group_name(new)


def set_default_group(group: Any) -> None:
    """Let `group` be what ``dist.group.WORLD`` names."""
    c10d()._update_default_pg(group)


# --- DistributedDataParallel ---------------------------------------------------------------------


def ddp_class() -> Any:
    """Return DistributedDataParallel, or None when nobody has loaded it."""
    module = sys.modules.get("torch.nn.parallel.distributed")
    return None if module is None else module.DistributedDataParallel


def new_reducer(model: Any) -> None:
    """Give a model the reducer that unpickling would give it; the old one lets go of the gradients.

    See ``DistributedDataParallel.__setstate__``. Whoever still holds the old reducer, such as a
    graph of autograd, would else have it listen to the same gradients as the new one.
    """
    old = model.__dict__.get("reducer")
    if old is not None and hasattr(old, "_remove_autograd_hooks"):
        old._remove_autograd_hooks()
    old = model.logger = model.reducer = None
    if "_static_graph_delay_allreduce_enqueued" in model.__dict__:
        model._static_graph_delay_allreduce_enqueued = False
    parameters, sparse = model._build_params_for_reducer()
    names = model._build_debug_param_to_name_mapping(parameters)
    model._ddp_init_helper(parameters, sparse, names, model.static_graph)
    if model.static_graph:
        model.reducer._set_static_graph()
        model.logger._set_static_graph()
    if getattr(model, "_require_manual_backward_finalization", False):
        model.require_manual_backward_finalization = True
    for hook, state in getattr(model, "_comm_hooks", []):
        sys.modules["torch.distributed"]._register_comm_hook(model.reducer, state, hook)


# --- FSDP ----------------------------------------------------------------------------------------


def fsdp2_states(module: Any) -> list[Any]:
    """Return the states of ``fully_shard`` of a module and its children, each once."""
    found: dict[int, Any] = {}
    composable = sys.modules.get("torch.distributed._composable_state")
    state_module = sys.modules.get("torch.distributed.fsdp._fully_shard._fsdp_state")
    if composable is None or state_module is None:
        return []
    for child in module.modules():
        state = composable._get_module_state(child)
        if isinstance(state, state_module.FSDPState):
            found[id(state)] = state
    return list(found.values())


def fsdp2_class() -> Any:
    """Return FSDPModule, of which modules are after ``fully_shard``; None when it is not loaded."""
    module = sys.modules.get("torch.distributed.fsdp._fully_shard._fully_shard")
    return getattr(module, "FSDPModule", None)


def fsdp2_groups(state: Any) -> list[Any]:
    """Return the parameter groups of a state; torch before 2.11 has at most one."""
    if "_fsdp_param_groups" in state.__dict__:
        return list(state._fsdp_param_groups)
    return [] if state._fsdp_param_group is None else [state._fsdp_param_group]


def fsdp2_was_left(states: list[Any]) -> bool:
    """Tell whether an iteration was begun and not ended."""
    phases = {one._training_state.name for state in states for one in (state, *fsdp2_groups(state))}
    return (
        phases - {"IDLE"} != set()
        or any(state._state_ctx.post_backward_final_callback_queued for state in states)
        or any(state._state_ctx.iter_forward_root is not None for state in states)
        or any(
            group._all_gather_result is not None
            for state in states
            for group in fsdp2_groups(state)
        )
    )


def fsdp2_gathers(states: list[Any]) -> bool:
    """Tell whether gradients of several batches wait to be reduced, which no zero_grad forgets."""
    return any(
        getattr(group, "_partial_reduce_output", None) is not None
        or any(_unsharded_gradient(parameter) is not None for parameter in group.fsdp_params)
        for state in states
        for group in fsdp2_groups(state)
    )


def _unsharded_gradient(parameter: Any) -> Any:
    whole = getattr(parameter, "_unsharded_param", None)
    grad = None if whole is None else whole.grad
    return getattr(parameter, "unsharded_accumulated_grad", None) if grad is None else grad


def fsdp2_reset(states: list[Any], drop_gradients: bool) -> None:
    """Let an iteration that was left begin anew: what ``FSDPModule.reset_iter_state`` does.

    That method is new in torch 2.15, and waits for collectives that were cut.
    """
    for state in states:
        idle = type(state._training_state)["IDLE"]
        state._training_state = idle
        for name in ("_modules_to_run_forward",):
            getattr(state, name, set()).clear()
        context, shared = state._state_ctx, state._comm_ctx
        context.iter_forward_root = None
        context.post_backward_final_callback_queued = False
        for name, value in (
            ("manual_backward_finalization_active", None),
            ("gradient_reduction_pending", False),
        ):
            if hasattr(context, name):
                setattr(context, name, value)
        shared.all_gather_state = None
        for name in ("post_forward_order", "reduce_scatter_states", "_last_post_reduce_events"):
            if hasattr(shared, name):
                getattr(shared, name).clear()
        for name in ("reduce_scatter_state", "active_gradient_reduction"):
            if hasattr(shared, name):
                setattr(shared, name, None)
        for group in fsdp2_groups(state):
            _fsdp2_reset_group(group, drop_gradients)


def _fsdp2_reset_group(group: Any, drop_gradients: bool) -> None:
    for name in (
        "_all_gather_result",
        "_post_reduce_event",
        "_all_reduce_state",
        "_reshard_after_forward_event",
    ):
        if hasattr(group, name):
            setattr(group, name, None)
    if hasattr(group, "_post_backward_pending"):
        group._post_backward_pending = False
    group._post_forward_indices.clear()
    if drop_gradients:
        _fsdp2_drop_gradients(group)
    if hasattr(group, "_set_unsharded_grad_dtypes"):
        group._set_unsharded_grad_dtypes(defer_upcast=False)
    group._training_state = type(group._training_state)["IDLE"]
    group._to_sharded()


def _fsdp2_drop_gradients(group: Any) -> None:
    if hasattr(group, "_partial_reduce_output"):
        group._partial_reduce_output = None
    for parameter in group.fsdp_params:
        whole = getattr(parameter, "_unsharded_param", None)
        if whole is not None:
            whole.grad = None  # of this rank's batch alone; the next one would be added to it
        if hasattr(parameter, "unsharded_accumulated_grad"):
            # A property since torch 2.15: what was just cleared.
            with contextlib.suppress(AttributeError):
                parameter.unsharded_accumulated_grad = None
        parameter.sharded_param.grad = None  # some were reduced, and some not


def fsdp1_class() -> Any:
    """Return FullyShardedDataParallel, or None when nobody has loaded it."""
    module = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")
    return None if module is None else module.FullyShardedDataParallel


def fsdp1_reset(root: Any) -> bool:
    """Let an iteration that was left begin anew; tells whether there was one.

    Parameters
    ----------
    root : FullyShardedDataParallel
        The outermost.
    """
    states = root.fsdp_modules(root)
    left = False
    for state in states:
        handle = getattr(state, "_handle", None)
        idle = type(state.training_state)["IDLE"]
        left = left or state.training_state is not idle
        left = left or bool(getattr(state, "_post_backward_callback_queued", False))
        if handle is not None:
            left = left or handle._training_state.name != "IDLE"
            left = left or (
                handle.uses_sharded_strategy
                and handle.flat_param._local_shard.data_ptr() != handle.flat_param.data.data_ptr()
            )
    if not left:
        return False
    for state in states:
        state.training_state = type(state.training_state)["IDLE"]
        if hasattr(state, "_post_backward_callback_queued"):
            state._post_backward_callback_queued = False
        order = getattr(state, "_exec_order_data", None)
        if order is not None:
            order.next_iter()
        queue = getattr(state, "_free_event_queue", None)
        if queue is not None:
            queue._queue.clear()
        handle = getattr(state, "_handle", None)
        if handle is not None:
            _fsdp1_reset_handle(handle)
    return True


def _fsdp1_reset_handle(handle: Any) -> None:
    flat = handle.flat_param
    handle._training_state = type(handle._training_state)["IDLE"]
    for name in ("_ran_pre_backward_hook", "_needs_pre_backward_unshard", "_prefetched"):
        if hasattr(handle, name):
            setattr(handle, name, False)
    handle._needs_pre_forward_unshard = False
    handle._post_forward_index = handle._pre_forward_order_index = None
    for name in ("_post_backward_hook_state", "_post_backward_hook_handle"):
        hook = flat.__dict__.pop(name, None)
        if hook is not None:
            hook[-1].remove() if isinstance(hook, tuple) else hook.remove()
    flat.__dict__.pop("_post_backward_called", None)
    flat._post_backward_called = False
    for name in ("_saved_grad_shard", "_cpu_grad"):
        flat.__dict__.pop(name, None)
    flat.grad = None
    if handle.uses_sharded_strategy:
        handle.reshard(True)


# --- DTensor -------------------------------------------------------------------------------------


def forget_equal_meshes() -> None:
    """Clear caches of DTensor whose results name the mesh, and so the groups, of an older one.

    Meshes of the same shape are equal to it. A rank that was started again knows the new one only,
    and would talk in another group than its peers.
    """
    if "torch.distributed.tensor" not in sys.modules:
        return
    debug = importlib.import_module("torch.distributed.tensor.debug")
    clear = getattr(debug, "_clear_sharding_prop_cache", None)
    if clear is not None:
        clear()
    redistribute = sys.modules.get("torch.distributed.tensor._redistribute")
    clear = getattr(getattr(redistribute, "_gen_transform_infos", None), "cache_clear", None)
    if clear is not None:
        clear()


# --- functions that ranks change -----------------------------------------------------------------


def replace(module: str, name: str, make: Callable[[Any], Any]) -> None:
    """Put ``make(original)`` in place of a function of torch, once."""
    owner = sys.modules.get(module)
    original = getattr(owner, name, None)
    if original is None or hasattr(original, "_ddipp_original"):
        return
    made = make(original)
    made._ddipp_original = original
    setattr(owner, name, made)

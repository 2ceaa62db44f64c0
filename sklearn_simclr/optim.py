"""Optimizers and the learning-rate schedule."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["LARS", "Muon", "scaled_learning_rate", "warmup_cosine"]

# Newton-Schulz iterations x <- a x + (b x x' + c (x x')^2) x bring the singular values of a matrix
# of Frobenius norm 1 towards 1. In measurements three gave the same accuracies as five; they cost
# less.
_NEWTON_SCHULZ, _N_ITERATIONS = (3.4445, -4.7750, 2.0315), 3
_TINY = 1e-7  # compared with the norm of a gradient
_RMS = 0.2  # root mean square of a step of Muon, in learning rates; about that of Adam


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling, as in the original SimCLR.

    The gradient of each weight matrix or kernel (including weight decay) is multiplied by
    ``trust_coefficient * |w| / |g|``, so that training with very large batches and learning rates
    is stable. Parameters with one dimension, biases and those of batch normalisation, are exempt
    from both the adaptation and the decay, whatever `weight_decay` is.

    Parameters
    ----------
    params : iterable of Tensor or of dict
        Parameters, or parameter groups.
    lr : float
        Learning rate, >= 0. It is applied inside the momentum buffer, as in the original.
    momentum : float, default=0.9
        Momentum, in [0, 1).
    weight_decay : float, default=1e-6
        L2 penalty added to the gradient, >= 0.
    trust_coefficient : float, default=0.001
        The factor eta of the trust ratio, > 0.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    If the norm of a weight or of its gradient is zero, the trust ratio is 1.

    References
    ----------
    .. [1] You, Gitman & Ginsburg (2017). Large Batch Training of Convolutional Networks.
       https://arxiv.org/abs/1708.03888

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.optim import LARS
    >>> weight = torch.nn.Parameter(torch.full((2, 2), 3.0))
    >>> optimizer = LARS([weight], lr=1.0, weight_decay=0.0, trust_coefficient=0.1)
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> weight[0, 0].item()  # |w| / |g| is 3, so the step is 0.1 * 3
    2.700000047683716
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 0.001,
    ) -> None:
        _check_options(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if not trust_coefficient > 0:
            raise ValueError(f"trust_coefficient must be > 0, got {trust_coefficient!r}.")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "trust_coefficient": trust_coefficient,
            },
        )

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step with the present gradients of the parameters.

        Parameters
        ----------
        closure : callable, default=None
            Computes the loss and its gradients again, and returns the loss.

        Returns
        -------
        Tensor or None
            The loss that `closure` returned.
        """
        loss = _evaluated(closure)
        for group in self.param_groups:
            alike = defaultdict(list)
            for param in group["params"]:
                if param.grad is not None:
                    alike[param.device, param.dtype, param.ndim > 1].append(param)
            for (*_, is_adapted), params in alike.items():
                self._update(params, group, is_adapted)
        return loss

    def _update(self, params: list[Tensor], group: dict, is_adapted: bool) -> None:
        """Update the parameters, in few calls."""
        updates = [param.grad for param in params]
        if is_adapted:
            updates = torch._foreach_add(updates, params, alpha=group["weight_decay"])
            ratios = _trust_ratios(params, updates, group["trust_coefficient"])
            torch._foreach_mul_(updates, ratios)
        buffers = _momentum_buffers(self, params)
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, torch._foreach_mul(updates, group["lr"]))
        torch._foreach_sub_(params, buffers)


def _trust_ratios(params: list[Tensor], grads: list[Tensor], coefficient: float) -> list[Tensor]:
    """LARS's trust ratios, scalars left on the device; 1 where a norm is zero."""
    w_norm, g_norm = (torch.stack(torch._foreach_norm(tensors)) for tensors in (params, grads))
    usable = (w_norm > 0) & (g_norm > 0)
    return list(torch.where(usable, coefficient * w_norm / g_norm, 1).unbind())


def _momentum_buffers(optimizer: torch.optim.Optimizer, params: list[Tensor]) -> list[Tensor]:
    """Return an optimizer's momentum buffers of parameters; zeros at first."""
    for param in params:
        if "momentum_buffer" not in optimizer.state[param]:
            optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)
    return [optimizer.state[param]["momentum_buffer"] for param in params]


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates: nearly the same step size in every direction.

    The step of a weight matrix is its momentum with the singular values brought towards 1, so that
    rare directions are learned nearly as fast as those that dominate the gradient. A kernel is
    treated as a matrix with a row per output, and a parameter with one dimension as a matrix with
    one row, whose step is its momentum scaled to a fixed norm.

    Parameters
    ----------
    params : iterable of Tensor or of dict
        Parameters, or parameter groups.
    lr : float
        Learning rate, >= 0. The root mean square of a step is about 0.2 times this, as with Adam
        [2]_.
    momentum : float, default=0.95
        Nesterov momentum, in [0, 1).
    weight_decay : float, default=0.1
        Decoupled weight decay, >= 0: a step shrinks the weights by a share ``lr * weight_decay``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Algorithm and coefficients of [1]_, with three Newton-Schulz iterations instead of five, in the
    precision of ``torch.autocast``: singular values of at least a fiftieth of the matrix's
    Frobenius norm end up between 0.68 and 1.2. Unlike ``torch.optim.Muon`` it accepts parameters
    with any number of dimensions.

    References
    ----------
    .. [1] Jordan, Jin, Boza, You, Cesista, Newhouse & Bernstein (2024). Muon: An optimizer for
       hidden layers in neural networks. https://kellerjordan.github.io/posts/muon/
    .. [2] Liu et al. (2025). Muon is Scalable for LLM Training. https://arxiv.org/abs/2502.16982

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.optim import Muon
    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> optimizer = Muon([weight], lr=1.0)
    >>> (weight * torch.tensor([[10.0, 0.0], [0.0, 1.0]])).sum().backward()
    >>> optimizer.step()
    >>> bool((weight.diagonal() < -0.15).all())  # by about as much along both
    True
    """

    def __init__(
        self, params: Iterable, lr: float, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        _check_options(lr=lr, momentum=momentum, weight_decay=weight_decay)
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step with the present gradients of the parameters.

        Parameters
        ----------
        closure : callable, default=None
            Computes the loss and its gradients again, and returns the loss.

        Returns
        -------
        Tensor or None
            The loss that `closure` returned.
        """
        loss = _evaluated(closure)
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict) -> None:
        """Update the parameters, in few calls."""
        momenta = self._momenta(params, group["momentum"])
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        steps = _steps(params, momenta)
        torch._foreach_mul_(steps, group["lr"])
        torch._foreach_sub_(params, steps)

    def _momenta(self, params: list[Tensor], momentum: float) -> list[Tensor]:
        """Add the gradients to the momentum buffers, and return the Nesterov momentum."""
        gradients, buffers = [param.grad for param in params], _momentum_buffers(self, params)
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        return torch._foreach_lerp(gradients, buffers, momentum)


def _steps(params: list[Tensor], momenta: list[Tensor]) -> list[Tensor]:
    """Return the steps at a learning rate of 1; matrices of the same shape are stacked."""
    alike, lines, steps = defaultdict(list), [], list(momenta)
    for i, param in enumerate(params):
        shape = _matrix_shape(param)
        if min(shape) == 1:  # its only singular value is its norm
            lines.append(i)
        else:
            alike[param.device, param.dtype, shape].append(i)
    if lines:
        for i, step in zip(lines, _scaled_to_rms([momenta[i] for i in lines]), strict=True):
            steps[i] = step
    for (*_, shape), numbers in alike.items():
        orders = [_memory_order(params[i]) for i in numbers]
        ordered = [momenta[i].permute(order) for i, order in zip(numbers, orders, strict=True)]
        matrices = torch.stack([momentum.reshape(shape) for momentum in ordered])
        changes = _orthogonal(matrices) * (_RMS * math.sqrt(max(shape)))
        for i, order, momentum, change in zip(numbers, orders, ordered, changes, strict=True):
            back = [order.index(axis) for axis in range(len(order))]
            steps[i] = change.view(momentum.shape).permute(back)
    return steps


def _matrix_shape(param: Tensor) -> tuple[int, int]:
    """Shape of a parameter as a matrix with a row per output; one row for one dimension."""
    return (len(param), math.prod(param.shape[1:])) if param.ndim > 1 else (1, param.numel())


def _memory_order(param: Tensor) -> list[int]:
    """Return the order in memory of the dimensions of a parameter, except the first.

    The columns of a matrix may be in any order, and in this one nothing has to be copied.
    """
    return [0, *sorted(range(1, param.ndim), key=param.stride, reverse=True)]


def _scaled_to_rms(values: list[Tensor]) -> list[Tensor]:
    """Scale each of some tensors to a root mean square of `_RMS`."""
    norms = torch._foreach_norm(values)
    torch._foreach_add_(norms, _TINY)
    scaled = torch._foreach_div(values, norms)
    torch._foreach_mul_(scaled, [_RMS * math.sqrt(each.numel()) for each in values])
    return scaled


def _orthogonal(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices (k, rows, columns) close to 1, all at once."""
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + _TINY)
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and not x.is_complex():
        x = x.to(torch.get_autocast_dtype(kind))  # once, not in every product
    is_tall = x.shape[1] > x.shape[2]
    x = x.mH if is_tall else x
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_N_ITERATIONS):
        gram = x @ x.mH
        change = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, change, x, beta=a)
    return (x.mH if is_tall else x).to(matrices.dtype)


def _evaluated(closure):
    """Call the closure of a step, if there is one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _check_options(*, lr: float, momentum: float, weight_decay: float) -> None:
    """Raise a ValueError for an option of an optimizer that is out of range."""
    if not lr >= 0:
        raise ValueError(f"lr must be >= 0, got {lr!r}.")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum!r}.")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be >= 0, got {weight_decay!r}.")


def warmup_cosine(step: int, n_steps: int, n_warmup_steps: int) -> float:
    """Share of the peak learning rate at one step: linear warm-up, then cosine decay to zero.

    Parameters
    ----------
    step : int
        Number of the step, from 0 to ``n_steps - 1``.
    n_steps : int
        Number of steps of the training run.
    n_warmup_steps : int
        Number of warm-up steps; the peak is reached at the last of them.

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> from sklearn_simclr.optim import warmup_cosine
    >>> [round(warmup_cosine(step, 6, 2), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < n_warmup_steps:
        return (step + 1) / n_warmup_steps
    progress = (step - n_warmup_steps) / max(1, n_steps - n_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def scaled_learning_rate(batch_size: int, *, base: float = 0.3, rule: str = "linear") -> float:
    """Peak learning rate for a batch size, by the rules of the paper (section 2.2, appendix B.1).

    Parameters
    ----------
    batch_size : int
        Number of images in a batch.
    base : float, default=0.3
        Learning rate at a batch size of 256 for the linear rule. The square-root rule of the paper,
        ``0.075 * sqrt(batch_size)``, has ``base=0.075``.
    rule : {"linear", "sqrt"}, default="linear"
        ``base * batch_size / 256`` or ``base * sqrt(batch_size)``.

    Returns
    -------
    float
        The learning rate.

    Raises
    ------
    ValueError
        If the rule is unknown.

    Examples
    --------
    >>> from sklearn_simclr.optim import scaled_learning_rate
    >>> scaled_learning_rate(4096)
    4.8
    >>> scaled_learning_rate(4096, base=0.075, rule="sqrt")
    4.8
    """
    if rule == "linear":
        return base * batch_size / 256
    if rule == "sqrt":
        return base * math.sqrt(batch_size)
    raise ValueError(f"rule must be 'linear' or 'sqrt', got {rule!r}.")


# Peak learning rate and weight decay that "auto" stands for. The learning rates of LARS and SGD
# are for batches of 256 and grow in proportion to the batch size.
DEFAULT_LEARNING_RATE = {"adamw": 4e-3, "muon": 0.03, "sgd": 0.06, "lars": 0.3}
DEFAULT_WEIGHT_DECAY = {"adamw": 1e-4, "muon": 0.1, "sgd": 5e-4, "lars": 1e-6}
_OUR_OWN = {"lars": LARS, "muon": Muon}
# Devices for which torch has fused optimizers: a step takes a tenth of the time.
_FUSED_DEVICES = ("cpu", "cuda")


def default_learning_rate(name: str, batch_size: int) -> float:
    """Peak learning rate that ``learning_rate="auto"`` stands for."""
    base = DEFAULT_LEARNING_RATE[name]
    return scaled_learning_rate(batch_size, base=base) if name in ("sgd", "lars") else base


def make_optimizer(
    name: str, module: nn.Module, *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Build an optimizer by name for a module; biases and normalisation never decay.

    On a GPU the learning rate is a tensor, so that a recorded step sees its changes; see
    `set_learning_rate`.
    """
    params = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    kinds = {p.device.type for p in params}
    is_real = not any(p.is_complex() for p in params)
    fused, on_gpu = (kinds <= set(_FUSED_DEVICES) and is_real) or None, kinds == {"cuda"}
    if name in _OUR_OWN:
        optimizer = _OUR_OWN[name](groups, lr)
    elif name == "sgd":
        optimizer = torch.optim.SGD(groups, lr, momentum=0.9, fused=fused)
        for param in params:  # the fused one needs all of these, or none
            optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)
    else:
        optimizer = torch.optim.AdamW(groups, lr, fused=fused, capturable=on_gpu)
    if on_gpu:
        for group in optimizer.param_groups:
            group["lr"] = torch.full((), lr, dtype=torch.float32, device=params[0].device)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate

"""Contrastive losses: NT-Xent and its alternatives."""

import functools
import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_simclr._log_sums import log2_sums

__all__ = ["dcl", "margin_triplet", "nt_logistic", "nt_xent", "supcon"]


def nt_xent(z1: Tensor, z2: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross entropy between two views (NT-Xent).

    Each of the 2n projections has to identify the other view of its own image among the
    2n - 1 others, by cosine similarity. The positive stays in the denominator, a projection is
    never compared with itself, and both directions count.

    Parameters
    ----------
    z1, z2 : Tensor of shape (n, d), n >= 2
        Projections of the first and the second view, not normalised; row i of both belongs to
        image i.
    temperature : float, default=0.5
        Positive divisor of the cosine similarities.

    Returns
    -------
    Tensor of shape ()
        The mean over the 2n views, in float32 (float64 if the input is). Unrelated projections
        give about ln(2n - 1). The original code sums the two directions, which is twice this.

    Raises
    ------
    ValueError
        If the shapes differ, are not (n, d), or n < 2, when there are no negatives; or if the
        temperature is not positive.

    Notes
    -----
    Equation 1 and Algorithm 1 of [1]_. Similarities are computed outside autocast: with a
    temperature of 0.01 bfloat16 would keep one digit of them.

    Memory is linear in n. The (2n, 2n) similarities are computed in tiles, as in [2]_. Half of them
    are kept for the gradient if that takes no more than 64 MiB on a CPU, or 256 MiB on another
    device, and the temperature is above 0.025; otherwise none are kept, and they are computed
    again. Only a gradient that is itself to be differentiated, ``create_graph=True``, needs the
    whole matrix.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi & Hinton (2020). A Simple Framework for Contrastive Learning
       of Visual Representations. ICML. https://arxiv.org/abs/2002.05709
    .. [2] Cheng, Zhang, Li, Leng, Hu, Wu, Zhao, Li & Bing (2024). Breaking the Memory Barrier: Near
       Infinite Batch Size Scaling for Contrastive Loss. https://arxiv.org/abs/2410.17243

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import nt_xent
    >>> z = torch.eye(4)
    >>> print(f"{nt_xent(z, z, temperature=0.1):.4f}")  # every positive found
    0.0003
    >>> print(f"{nt_xent(z, z.roll(1, 0), temperature=0.1):.4f}")  # none found
    10.0003
    """
    return _cross_entropy(z1, z2, temperature, with_positives=True)


def nt_logistic(
    z1: Tensor, z2: Tensor, *, temperature: float = 0.5, semi_hard: bool = True
) -> Tensor:
    """Logistic loss of the cosine similarities (NT-Logistic).

    Each pair of views is classified on its own, as positive or negative: a view u with its
    positive v+ and a negative v- has the loss ``-log sigmoid(u.v+ / temperature)
    - log sigmoid(-u.v- / temperature)``. Each of the 2n views serves as u once, so that both
    directions count, and its negatives are taken from both views of the other images.

    Parameters
    ----------
    z1, z2 : Tensor of shape (n, d), n >= 2
        Projections of the two views, as for :func:`nt_xent`.
    temperature : float, default=0.5
        Positive divisor of the cosine similarities.
    semi_hard : bool, default=True
        True: the only negative of a view is the semi-hard one, the most similar of those less
        similar than the positive. If there is none, the least similar of all is used.
        False: the second term is the mean over all 2n - 2 negatives.

    Returns
    -------
    Tensor of shape ()
        The mean over the 2n views, in float32 (float64 if the input is). Similarities of zero
        give 2 ln 2.

    Raises
    ------
    ValueError
        As for :func:`nt_xent`.

    Notes
    -----
    Table 2 and section 5.1 of [1]_, where a linear classifier on ImageNet reached 51.6% without
    and 57.9% with semi-hard negatives, and 63.9% with NT-Xent (Table 4). The temperature was the
    best of 0.1, 0.2, 0.5 and 1, and the negatives came from one view only (appendix B.10).
    Memory is quadratic in n.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi & Hinton (2020). A Simple Framework for Contrastive Learning
       of Visual Representations. ICML. https://arxiv.org/abs/2002.05709

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import nt_logistic
    >>> z = torch.eye(4)
    >>> print(f"{nt_logistic(z, z):.4f}")  # ln(1 + exp(-2)) + ln 2
    0.8201
    """
    _check_temperature(temperature)
    positive, negatives = _positives_and_negatives(_unit_views(z1, z2))
    if semi_hard:
        repelled = F.logsigmoid(-_semi_hard(positive, negatives) / temperature)  # (2n,)
    else:
        repelled = _mean_over_negatives(F.logsigmoid(-negatives / temperature))  # (2n,)
    return -(F.logsigmoid(positive / temperature) + repelled).mean()


def margin_triplet(
    z1: Tensor, z2: Tensor, *, margin: float = 0.4, semi_hard: bool = True
) -> Tensor:
    """Triplet loss of the cosine similarities.

    A view u should be more similar to its positive v+ than to a negative v-, by at least the
    margin: the loss is ``max(u.v- - u.v+ + margin, 0)``. Each of the 2n views serves as u once, so
    that both directions count, and its negatives are taken from both views of the other images.

    Parameters
    ----------
    z1, z2 : Tensor of shape (n, d), n >= 2
        Projections of the two views, as for :func:`nt_xent`.
    margin : float, default=0.4
        In [0, 2], the range of differences of cosines.
    semi_hard : bool, default=True
        True: the only negative of a view is the semi-hard one, the most similar of those less
        similar than the positive; beyond the margin it contributes nothing. If there is none, the
        least similar of all is used. False: the mean over all 2n - 2 negatives.

    Returns
    -------
    Tensor of shape ()
        The mean over the 2n views, in float32 (float64 if the input is). Equal similarities give
        `margin`.

    Raises
    ------
    ValueError
        As for :func:`nt_xent`.

    Notes
    -----
    Table 2 and section 5.1 of [1]_, where a linear classifier on ImageNet reached 50.9% without
    and 57.5% with semi-hard negatives [2]_, and 63.9% with NT-Xent (Table 4). The margin was the
    best of 0, 0.4, 0.8 and 1.6, and the negatives came from one view only (appendix B.10).
    Memory is quadratic in n.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi & Hinton (2020). A Simple Framework for Contrastive Learning
       of Visual Representations. ICML. https://arxiv.org/abs/2002.05709
    .. [2] Schroff, Kalenichenko & Philbin (2015). FaceNet: A Unified Embedding for Face
       Recognition and Clustering. CVPR. https://arxiv.org/abs/1503.03832

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import margin_triplet
    >>> z = torch.eye(4)
    >>> print(f"{margin_triplet(z, z):.4f}")  # every positive ahead by 1
    0.0000
    >>> print(f"{margin_triplet(z, z, margin=1.5):.4f}")
    0.5000
    """
    positive, negatives = _positives_and_negatives(_unit_views(z1, z2))
    if semi_hard:
        return F.relu(_semi_hard(positive, negatives) - positive + margin).mean()
    return _mean_over_negatives(F.relu(negatives - positive[:, None] + margin)).mean()


def dcl(z1: Tensor, z2: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Decoupled contrastive loss: NT-Xent without the positive in the denominator.

    In NT-Xent an easy positive also reduces the gradient of the negatives, the more so the smaller
    the batch. Here the two are decoupled.

    Parameters
    ----------
    z1, z2 : Tensor of shape (n, d), n >= 2
        Projections of the two views, as for :func:`nt_xent`.
    temperature : float, default=0.5
        Positive divisor of the cosine similarities.

    Returns
    -------
    Tensor of shape ()
        The mean over the 2n views, in float32 (float64 if the input is). Unrelated projections
        give about ln(2n - 2). It is negative if positives stand out.

    Raises
    ------
    ValueError
        As for :func:`nt_xent`.

    Notes
    -----
    The loss L_DC of [1]_, without the weights of its variant DCLW. Memory is linear in n, as for
    :func:`nt_xent`.

    References
    ----------
    .. [1] Yeh, Hong, Hsu, Liu, Chen & LeCun (2022). Decoupled Contrastive Learning. ECCV.
       https://arxiv.org/abs/2110.06848

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import dcl
    >>> z = torch.eye(4)
    >>> print(f"{dcl(z, z, temperature=0.5):.4f}")  # ln 6 - 1 / 0.5
    -0.2082
    """
    return _cross_entropy(z1, z2, temperature, with_positives=False)


def supcon(z1: Tensor, z2: Tensor, labels: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Supervised contrastive loss: all views of a class are positives of each other.

    It is NT-Xent, averaged for each view over its positives: its own other view, and both views
    of each image with the same label. Each positive competes with all 2n - 1 other views, including
    those of the same class.

    Parameters
    ----------
    z1, z2 : Tensor of shape (n, d), n >= 2
        Projections of the two views, as for :func:`nt_xent`.
    labels : Tensor of integers, shape (n,)
        The class of each image; -1 means unlabelled. The only positive of an unlabelled view is
        its own other view, and it is a negative for the views of all other images. Without any
        labels the loss is :func:`nt_xent`.
    temperature : float, default=0.5
        Positive divisor of the cosine similarities.

    Returns
    -------
    Tensor of shape ()
        The mean over the 2n views, in float32 (float64 if the input is). Unrelated projections
        give about ln(2n - 1).

    Raises
    ------
    ValueError
        As for :func:`nt_xent`, and if the labels are not n integers.

    Notes
    -----
    The loss L_out, equation 2 of [1]_. Memory is quadratic in n.

    References
    ----------
    .. [1] Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu & Krishnan (2020).
       Supervised Contrastive Learning. NeurIPS. https://arxiv.org/abs/2004.11362

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import supcon
    >>> z = torch.eye(2)[[0, 0, 1, 1]]  # two images look alike, and so do the other two
    >>> print(f"{supcon(z, z, torch.tensor([0, 0, 1, 1]), temperature=0.1):.4f}")  # ln 3
    1.0987
    >>> print(f"{supcon(z, z, torch.tensor([0, 1, 0, 1]), temperature=0.1):.4f}")
    7.7653
    """
    _check_temperature(temperature)
    z = _unit_views(z1, z2)
    if labels.shape != z1.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels must be integers of shape ({len(z1)},), one for each row of z1, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    similarity = _similarities(z)
    label = torch.cat([labels, labels]).long()  # (2n,)
    positive = (label[:, None] == label) & (label != -1)  # (2n, 2n)
    positive.scatter_(1, _other_views(similarity)[:, None], True).fill_diagonal_(False)
    log_p = (similarity / temperature).log_softmax(1).masked_fill(~positive, 0)  # (2n, 2n)
    return -(log_p.sum(1) / positive.sum(1)).mean()


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature!r}.")


def _unit_views(z1: Tensor, z2: Tensor) -> Tensor:
    """Both views (2n, d) of all images, in the losses' precision, each of unit norm."""
    if z1.shape != z2.shape or z1.ndim != 2 or len(z1) < 2:
        raise ValueError(
            "z1 and z2 must have the same shape (n, d) with n >= 2, "
            f"got {tuple(z1.shape)} and {tuple(z2.shape)}."
        )
    with torch.autocast(z1.device.type, enabled=False):
        return F.normalize(full_precision(torch.cat([z1, z2])), dim=1)


def _similarities(z: Tensor) -> Tensor:
    """Cosine similarities (2n, 2n) of all views (2n, d), outside autocast; -inf with themselves."""
    with torch.autocast(z.device.type, enabled=False):
        return (z @ z.T).fill_diagonal_(-torch.inf)


def full_precision(z: Tensor) -> Tensor:
    """Bring projections to the precision that losses are computed in: float32, or float64."""
    return z if z.dtype == torch.float64 else z.float()


def _other_views(similarity: Tensor) -> Tensor:
    """Index (2n,) of the other view of each view."""
    n_views = len(similarity)
    return torch.arange(n_views, device=similarity.device).roll(n_views // 2)


def _positives_and_negatives(z: Tensor) -> tuple[Tensor, Tensor]:
    """Similarities (2n,) to the other view, and (2n, 2n) to all others, -inf in its place."""
    similarity = _similarities(z)
    other = _other_views(similarity)[:, None]  # (2n, 1)
    return similarity.gather(1, other).squeeze(1), similarity.scatter(1, other, -torch.inf)


def _cross_entropy(z1: Tensor, z2: Tensor, temperature: float, *, with_positives: bool) -> Tensor:
    """NT-Xent, with or without the positives in the denominators."""
    _check_temperature(temperature)
    # Products of z are the logits to base 2 instead of e. Both terms are computed from the same z:
    # if each were rounded in its own way, their difference would be biased.
    z = _unit_views(z1, z2) / (temperature * math.log(2)) ** 0.5
    z1, z2 = z.chunk(2)
    bound = 1 / (temperature * math.log(2))
    sums = log2_sums(z, bound, with_positives=with_positives)  # (2n,)
    return (sums.view(2, -1) - (z1 * z2).sum(1)).mean() * math.log(2)


def _semi_hard(positive: Tensor, negatives: Tensor) -> Tensor:
    """Similarity (2n,) of the closest negative beyond the positive, else of the farthest.

    The farthest is the last that the positive passes as it moves away, so the loss of such a view
    is continuous there, and the worst views do not count as solved.
    """
    beyond = negatives.masked_fill(negatives >= positive[:, None], -torch.inf).amax(1)
    farthest = negatives.masked_fill(negatives.isneginf(), torch.inf).amin(1)
    return torch.where(beyond.isneginf(), farthest, beyond)


def _mean_over_negatives(terms: Tensor) -> Tensor:
    """Mean (2n,) of terms (2n, 2n), which are zero for the view itself and its positive."""
    return terms.sum(1) / (len(terms) - 2)


# What the parameter `loss` accepts by name.
LOSSES = {
    "nt_xent": nt_xent,
    "nt_logistic": nt_logistic,
    "margin_triplet": margin_triplet,
    "dcl": dcl,
    "supcon": supcon,
}


def resolve_loss(loss: str | Callable, temperature: float) -> Callable:
    """Turn any value that the parameter `loss` accepts into one kind of function.

    Parameters
    ----------
    loss : str or callable
        A name in `LOSSES`, or a function that maps two projections (n, d), passed in float32 and
        outside autocast, to a scalar. It is also passed `temperature` if its signature has a
        parameter of this name, unless a `functools.partial` has set it already.
    temperature : float
        Divisor of the similarities, for losses that have one.

    Returns
    -------
    callable
        Maps z1, z2 and the labels, which only "supcon" uses, to a scalar Tensor. It raises a
        `ValueError` if a callable returns anything other than a scalar float Tensor, or one that
        no gradient reaches.

    Raises
    ------
    ValueError
        If `loss` is the function :func:`supcon`, which needs labels, or a module with parameters
        to learn.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.losses import resolve_loss
    >>> def distance(z1, z2):
    ...     return (z1 - z2).norm(dim=1).mean()
    >>> z, labels = torch.eye(4), torch.arange(4)
    >>> resolve_loss(distance, temperature=0.5)(z, z + 3, labels)
    tensor(6.)
    """
    if loss is supcon:
        raise ValueError('loss=supcon needs the labels; pass its name, loss="supcon".')
    if isinstance(loss, nn.Module) and any(param.requires_grad for param in loss.parameters()):
        raise ValueError(
            f"loss={type(loss).__name__} has parameters that require a gradient, but training "
            "learns only those of the network. Freeze them with loss.requires_grad_(False)."
        )
    function = LOSSES[loss] if isinstance(loss, str) else loss
    if _takes_temperature(function):
        function = functools.partial(function, temperature=temperature)
    if loss == "supcon":
        return function
    if isinstance(loss, str):
        return lambda z1, z2, labels: function(z1, z2)

    def checked(z1: Tensor, z2: Tensor, labels: Tensor | None) -> Tensor:
        with torch.autocast(z1.device.type, enabled=False):
            value = function(full_precision(z1), full_precision(z2))
        _check_value(value, loss, needs_gradient=z1.requires_grad)
        return value

    return checked


def _takes_temperature(function: Callable) -> bool:
    """Whether a loss is to be passed the temperature."""
    is_partial = isinstance(function, functools.partial)
    if is_partial and "temperature" in function.keywords:
        return False
    ways, inner = [function], function.func if is_partial else function
    if isinstance(inner, nn.Module):  # calling one is often said to take anything
        bound = (function.args, function.keywords) if is_partial else ((), {})
        ways.append(functools.partial(inner.forward, *bound[0], **bound[1]))
    try:
        return any("temperature" in inspect.signature(way).parameters for way in ways)
    except ValueError:  # some functions written in C have no signature
        return False


def _check_value(value: Tensor, loss: Callable, *, needs_gradient: bool) -> None:
    """Raise a ValueError unless training can use the value that a callable returned."""
    if not isinstance(value, Tensor):
        met = f"{type(value).__name__} {value!r}"
    elif value.ndim or not value.is_floating_point():
        met = f"{value.dtype} of shape {tuple(value.shape)}"
    elif needs_gradient and not value.requires_grad:
        met = "one that is cut off from the projections (detached, or made of NumPy arrays)"
    else:
        return
    raise ValueError(f"loss={loss!r} must return a scalar float Tensor to train on, got {met}.")

"""The contrastive loss: NT-Xent."""

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(z1: Tensor, z2: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross entropy between two views (NT-Xent).

    Each of the 2n projections has to pick out the other view of its own image among the
    2n - 1 others, by cosine similarity. The positive stays in the denominator, a projection is
    never compared with itself, and both directions count.

    Parameters
    ----------
    z1, z2 : Tensor of shape (n, d), n >= 2
        Projections of the first and the second view, not normalised; row i of both comes from
        image i.
    temperature : float, default=0.5
        Positive divisor of the cosine similarities.

    Returns
    -------
    Tensor of shape ()
        The mean over the 2n views, in float32 (float64 if the input is). Unrelated projections
        give about ln(2n - 1). The original code adds up the two directions, which is twice this.

    Raises
    ------
    ValueError
        If the shapes differ, are not (n, d), or n < 2, when there is no negative to compare with.

    Notes
    -----
    Equation 1 and Algorithm 1 of [1]_. Similarities are computed outside autocast: with a
    temperature of 0.01 bfloat16 would keep one digit of them.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi & Hinton (2020). A Simple Framework for Contrastive Learning
       of Visual Representations. ICML. https://arxiv.org/abs/2002.05709

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
    if z1.shape != z2.shape or z1.ndim != 2 or len(z1) < 2:
        raise ValueError(
            "nt_xent needs z1 and z2 of one shape (n, d) with n >= 2, "
            f"got {tuple(z1.shape)} and {tuple(z2.shape)}."
        )
    n = len(z1)
    with torch.autocast(z1.device.type, enabled=False):
        z = torch.cat([z1, z2])  # (2n, d)
        z = F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1)
        logits = (z @ z.T) / temperature  # (2n, 2n)
        logits.fill_diagonal_(-torch.inf)
        positive = torch.arange(2 * n, device=z.device).roll(n)
        return F.cross_entropy(logits, positive)

"""The projection head g(.) between the features h and the loss."""

from torch import nn

__all__ = ["first_layers", "projection_head"]


def projection_head(in_dim: int, out_dim: int, n_layers: int) -> nn.Sequential:
    """Build the head that maps features h to projections z.

    Parameters
    ----------
    in_dim : int
        Width of h.
    out_dim : int
        Width of z; not used if `n_layers` is 0.
    n_layers : {0, 1, 2, 3}
        0 is the identity, 1 linear, 2 the paper's MLP with one hidden layer as wide as h, and 3
        that of SimCLRv2. A hidden layer is a linear map, batch normalisation and ReLU; the last
        layer is linear without bias.

    Returns
    -------
    nn.Sequential
        Maps (n, in_dim) to (n, out_dim); the identity if there are no layers.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi & Hinton (2020), section 4.2.
       https://arxiv.org/abs/2002.05709
    .. [2] Chen, Kornblith, Swersky, Norouzi & Hinton (2020). Big Self-Supervised Models are
       Strong Semi-Supervised Learners, section 2. https://arxiv.org/abs/2006.10029

    Examples
    --------
    >>> from sklearn_simclr.projection import projection_head
    >>> [type(layer).__name__ for layer in projection_head(512, 128, n_layers=2)]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = []
    for _ in range(n_layers - 1):
        layers += [nn.Linear(in_dim, in_dim, bias=False), nn.BatchNorm1d(in_dim), nn.ReLU()]
    if n_layers:
        layers.append(nn.Linear(in_dim, out_dim, bias=False))
    return nn.Sequential(*layers)


def first_layers(head: nn.Sequential, n_layers: int) -> nn.Sequential:
    """Return the first layers of a head made by `projection_head`, sharing its weights.

    Parameters
    ----------
    head : nn.Sequential
        A head with at least `n_layers` layers.
    n_layers : int
        Number of layers to keep, each hidden one with its batch normalisation and ReLU: 0 gives the
        identity, all of them the whole head, 1 of 3 the middle layer that SimCLRv2 fine-tunes from.

    Returns
    -------
    nn.Sequential
        Maps features h to the output of that layer.

    Examples
    --------
    >>> from sklearn_simclr.projection import first_layers, projection_head
    >>> head = projection_head(512, 128, n_layers=3)
    >>> [type(layer).__name__ for layer in first_layers(head, 1)]
    ['Linear', 'BatchNorm1d', 'ReLU']
    """
    return head[: 3 * n_layers]

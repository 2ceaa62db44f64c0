"""The trained network with all that comes before it, as a module of its own, and as ONNX."""

import contextlib
import io
import os

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_simclr._kernels import resizing_matrices
from sklearn_simclr._network import SimCLRNetwork, laid_out, standardised
from sklearn_simclr._reading import match_pixel_range
from sklearn_simclr.projection import first_layers

_INPUT_DTYPES = ("auto", "uint8", "float32")
_EXAMPLE_ROWS = 2  # torch takes a batch of one for one that always is of one
_INPUT, _OUTPUT, _BATCH = "X", "output", "n"  # names within an ONNX file


class ExportedNetwork(nn.Module):
    """X as `transform` takes it to features, or to logits: what `to_torch` returns.

    Parameters
    ----------
    network : SimCLRNetwork
        The trained network; its layers become those of this module.
    output_layer : int
        How many layers of the projection head are applied.
    image_shape : tuple of (int, int, int) or None
        (h, w, c) of the images; None: the rows are vectors.
    channels_first : bool
        Whether the channels of the images come first.
    pixel_range : tuple of (float, float) or None
        The values of pixels that stand for 0 and 1.
    image_size : int or None
        Side in pixels that images are brought to; None: they keep their size.
    linear : nn.Linear, default=None
        The layer that makes logits of the features, if there is one.

    Attributes
    ----------
    encoder : nn.Module
        The encoder f(.), from normalised images (n, c, h, w), or vectors, to h (n, `n_features`).
    head : nn.Sequential
        The layers of the projection head that are applied; may be empty.
    classifier : nn.Linear or nn.Identity
        The layer behind them.
    """

    def __init__(
        self,
        network: SimCLRNetwork,
        output_layer: int,
        *,
        image_shape: tuple[int, int, int] | None,
        channels_first: bool,
        pixel_range: tuple[float, float] | None,
        image_size: int | None,
        linear: nn.Linear | None = None,
    ):
        super().__init__()
        self.encoder = network.encoder
        self.head = first_layers(network.head, output_layer)
        self.classifier = nn.Identity() if linear is None else linear
        self.n_features = network.n_features
        self.image_shape = image_shape
        self.channels_first = channels_first
        self.pixel_range = pixel_range
        self.image_size = image_size
        # Not the format itself, which torch.save does not take.
        self._channels_last = network.memory_format == torch.channels_last
        self.register_buffer("mean", network.mean)
        self.register_buffer("scale", network.scale)
        rows = columns = None
        if image_size is not None and image_shape[:2] != (image_size, image_size):
            rows, columns = resizing_matrices(*image_shape[:2], image_size)
        self.register_buffer("_rows", rows, persistent=False)
        self.register_buffer("_columns", columns, persistent=False)
        self.eval()

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample of X: (h, w, c) or (c, h, w), (h, w) of one channel, or (d,)."""
        return self._accepted_shapes()[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (n, d), or the logits (n, k), of X.

        Parameters
        ----------
        x : Tensor of shape (n, h, w, c), (n, c, h, w) or (n, d)
            X in the layout that `transform` takes, of any real dtype, pixels in the range of those
            in fit. Images may lie in rows (n, values), those of one channel may lack its axis.
        """
        x = self._read(x)
        if self._rows is not None:
            x = self._rows @ x @ self._columns
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        x = laid_out(standardised(x, self.mean, self.scale), layout)
        h = self.encoder(x)  # (n, n_features)
        return self.classifier(self.head(h))

    def _read(self, x: Tensor) -> Tensor:
        """Bring X to (n, c, h, w) in [0, 1], or to (n, d), in the dtype of the weights."""
        if tuple(x.shape[1:]) not in self._accepted_shapes():
            raise ValueError(
                f"This network takes X of shape {('n', *self.sample_shape)}, got {tuple(x.shape)}."
            )
        if self.image_shape is None:
            return x.to(self.mean.dtype)
        low, high = self.pixel_range
        if x.dtype == torch.uint8:
            low, high = match_pixel_range(np.dtype(np.uint8), (0, 255), self.pixel_range)
        x = (x.to(self.mean.dtype) - low) / (high - low)
        height, width, channels = self.image_shape
        if self.channels_first:
            return x.reshape(x.shape[0], channels, height, width)
        return x.reshape(x.shape[0], height, width, channels).permute(0, 3, 1, 2)

    def _accepted_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes that a sample may have, the usual one first."""
        if self.image_shape is None:
            return ((len(self.mean),),)
        height, width, channels = self.image_shape
        full = (channels, height, width) if self.channels_first else self.image_shape
        rows = (height * width * channels,)
        return ((height, width), full, rows) if channels == 1 else (full, rows)


def write_onnx(network: ExportedNetwork, path: str | os.PathLike, input_dtype: str) -> None:
    """Write an exported network to a file in the format ONNX, for any number of rows.

    Parameters
    ----------
    network : ExportedNetwork
    path : path
        Is overwritten.
    input_dtype : {"auto", "uint8", "float32"}
        What X is in the file: "auto" is uint8 where the network has learned from bytes.

    Raises
    ------
    ValueError
        If `input_dtype` is another one, or uint8 cannot hold the pixels that the network has
        learned from, or torch cannot export an encoder of the user's.
    ImportError
        If the packages that this takes are not installed.
    """
    if input_dtype not in _INPUT_DTYPES:
        raise ValueError(
            f"input_dtype={input_dtype!r} is none of {', '.join(map(repr, _INPUT_DTYPES))}."
        )
    if input_dtype == "auto":
        input_dtype = "uint8" if network.pixel_range == (0.0, 255.0) else "float32"
    if input_dtype == "uint8" and network.image_shape is not None:
        _check_bytes(network.pixel_range)
    example = torch.zeros(_EXAMPLE_ROWS, *network.sample_shape, dtype=getattr(torch, input_dtype))
    any_number = ({0: torch.export.Dim(_BATCH)},)
    try:
        # Not left to torch.onnx, which would silently fix the number of rows to the example's.
        program = torch.export.export(network, (example,), dynamic_shapes=any_number, strict=False)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"torch.export does not take this network with any number of rows: "
            f"{type(error).__name__}: {reason} In an encoder of your own write x.shape[0] for "
            "len(x), and do not branch on values."
        ) from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # older onnxscripts say what they rewrite
            written = torch.onnx.export(
                program,
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                dynamic_shapes=any_number,  # for its name
                dynamo=True,
                verbose=False,
            )
    except ImportError as error:
        raise ImportError(
            f"to_onnx needs packages that are not installed: pip install onnx onnxscript. ({error})"
        ) from error
    written.save(path, external_data=False)  # one file


def _check_bytes(pixel_range: tuple[float, float]) -> None:
    """Raise an error if uint8 cannot be in the units of such pixels."""
    try:
        match_pixel_range(np.dtype(np.uint8), (0, 255), pixel_range)
    except ValueError as error:
        raise ValueError(
            "input_dtype='uint8' cannot hold pixels from {:g} to {:g}, on which the network was "
            "fitted. Pass 'float32'.".format(*pixel_range)
        ) from error

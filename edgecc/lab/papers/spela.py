"""SPELA(O) for any torch modules (Somasundaram, Mishra, Borthakur, "Learning Using a Single
Forward Pass", TMLR 2025): in one sweep every layer turns its output towards the vector of the
true class, by autograd inside this one layer, and passes it on detached.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgecc.lab.papers.class_vectors import METHODS, generate_symmetric_vectors

Activation = Callable[[Tensor], Tensor]
Loader = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class SpelaConfig:
    """The settings of a SpelaTrainer.

    Attributes:
        num_classes: labels are 0 .. num_classes - 1.
        lr, weight_decay, momentum: of each layer's own SGD.
        device: None takes CUDA where there is one.
        dtype: of layers and inputs; None leaves the layers as they are.
        auto_flatten: an output becomes a vector for its loss, and an input where a layer begins
            with vectors of that size (Linear, BatchNorm1d); maps go to convolutions as they are.
        normalize_layer_inputs: each sample that enters a layer is divided by its norm.
        grad_clip_norm: bound on the norm of a layer's gradient.
        amp: automatic mixed precision; float16 on CUDA, bfloat16 elsewhere.
        embeddings_method: 'farthest', 'random' or 'simplex' (generate_symmetric_vectors).
        embeddings_candidates: directions that 'farthest' chooses from.
        seed: of the class vectors; None takes torch's global generator.
    """

    num_classes: int
    lr: float = 1e-2
    weight_decay: float = 0.0
    momentum: float = 0.0
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    auto_flatten: bool = True
    normalize_layer_inputs: bool = True
    grad_clip_norm: float | None = None
    amp: bool = False
    embeddings_method: str = "farthest"
    embeddings_candidates: int = 2048
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes={self.num_classes}: there must be at least one class")
        if self.embeddings_method not in METHODS:
            raise ValueError(
                f"embeddings_method={self.embeddings_method!r} is none of {', '.join(METHODS)}")


class SpelaTrainer:
    """Trains `layers`, in order, and predicts with any of them.

    The trainer moves `model` and the layers to the device, switches them between training and
    evaluation, and owns their state, so that the layers need not be in `model`, which may be an
    empty nn.Sequential(). A layer without trainable parameters is passed through.

    Args:
        activations: for each layer the function or module after it (a module's parameters are
            trained with the layer), or None; None instead of the list: none has one.

    Attributes:
        class_vectors: (num_classes, D) for each layer, D the size of its own output after
            activation and pooling; None until the first batch shows it.

    Raises ValueError where lists, shapes or labels do not fit together.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[nn.Module],
        activations: Sequence[Activation | None] | None = None, cfg: SpelaConfig | None = None,
    ) -> None:
        if cfg is None:
            raise ValueError("cfg is missing: SpelaConfig(num_classes=...)")
        if not layers:
            raise ValueError("layers is empty: there is nothing to train")
        activations = [None] * len(layers) if activations is None else activations
        if len(activations) != len(layers):
            raise ValueError(f"{len(layers)} layers, but {len(activations)} activations")
        self.cfg = cfg
        self.device = torch.device(cfg.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model
        self.layers = list(layers)
        self._stack = nn.ModuleList(map(_Layer, layers, activations))
        for part in (self.model, self._stack):
            part.to(self.device, cfg.dtype)
        self.dtype = cfg.dtype or next((p.dtype for p in self._stack.parameters()), torch.float32)
        self._exact = torch.promote_types(self.dtype, torch.float32)  # of cosines
        self.class_vectors: list[Tensor | None] = [None] * len(layers)
        self.optimizers = [self._sgd(layer) for layer in self._stack]
        on_cuda = self.device.type == "cuda"
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=cfg.amp and on_cuda)

    def fit(
        self, loader: Loader, epochs: int = 1, val_loader: Loader | None = None,
        log_fn: Callable[[int, float, float | None], None] | None = None,
    ) -> list[float]:
        """Trains on batches of inputs (B, ...) and labels (B,); the mean loss of each epoch.

        log_fn is called after each with epoch (from 1), loss and accuracy on val_loader.
        """
        losses = []
        for epoch in range(1, epochs + 1):
            losses.append(self.train_epoch(loader))
            accuracy = None if val_loader is None else self.evaluate(val_loader)
            if log_fn is not None:
                log_fn(epoch, losses[-1], accuracy)
        return losses

    def train_epoch(self, loader: Loader) -> float:
        """One pass over the loader; the mean loss of samples and layers, -1 (best) to 1."""
        self._switch(training=True)
        total, count = torch.zeros((), device=self.device), 0
        for x, y in self._batches(loader):
            h = x
            for i in range(len(self.layers)):
                h, loss = self._step(i, h, y)
                total += loss * len(y)
            count += len(y)
        return float(total) / (count * len(self.layers))

    @torch.no_grad()
    def predict_layer(self, x: Tensor, from_layer: int = -1) -> Tensor:
        """Classes (B,) by the nearest class vector at a layer; those after it do not run."""
        last = range(len(self.layers))[from_layer]
        self._switch(training=False)
        h = x.to(self.device, self.dtype)
        for i in range(last + 1):
            h = self._forward(i, h)
        features = self._features(last, h)
        return (_unit(features) @ self._vectors(last, features).T).argmax(1)

    def evaluate(self, loader: Loader, from_layer: int = -1) -> float:
        """Accuracy of `predict_layer`, 0 to 1."""
        correct = count = 0
        for x, y in self._batches(loader):
            correct += int((self.predict_layer(x, from_layer) == y).sum())
            count += len(y)
        return correct / count

    def state_dict(self) -> dict[str, Any]:
        """Layers, class vectors and optimisers: all that later steps and predictions need."""
        return {
            "layers": self._stack.state_dict(),
            "class_vectors": list(self.class_vectors),
            "optimizers": [o and o.state_dict() for o in self.optimizers],
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of a trainer with the same layers."""
        vectors = state["class_vectors"]
        for i, v in enumerate(vectors):
            if v is not None and len(v) != self.cfg.num_classes:
                raise ValueError(f"layer {i} of the state has {len(v)} classes, cfg.num_classes is "
                                 f"{self.cfg.num_classes}")
        self._stack.load_state_dict(state["layers"])
        self.class_vectors = [v if v is None else v.to(self.device, self._exact) for v in vectors]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            if optimizer is not None:
                optimizer.load_state_dict(saved)
        self._scaler.load_state_dict(state["scaler"])

    def _sgd(self, layer: nn.Module) -> torch.optim.SGD | None:
        trained = [p for p in layer.parameters() if p.requires_grad]
        if not trained:
            return None
        return torch.optim.SGD(trained, lr=self.cfg.lr, momentum=self.cfg.momentum,
                               weight_decay=self.cfg.weight_decay)

    def _switch(self, *, training: bool) -> None:
        self.model.train(training)
        self._stack.train(training)

    def _batches(self, loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels on the device; labels are checked before they are moved."""
        empty = True
        for x, y in loader:
            _check_labels(y, size=len(x), classes=self.cfg.num_classes)
            empty = False
            yield x.to(self.device, self.dtype), y.to(self.device)
        if empty:
            raise ValueError("the loader gave no batch (an iterator can be used only once)")

    def _step(self, i: int, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One local update of layer i; its output and loss from before the update, detached."""
        out = self._forward(i, h.detach())
        features = self._features(i, out)
        loss = -(_unit(features) * self._vectors(i, features)[y]).sum(1).mean()
        optimizer = self.optimizers[i]
        if optimizer is not None:
            self._update(optimizer, loss)
        return out.detach(), loss.detach()

    def _update(self, optimizer: torch.optim.SGD, loss: Tensor) -> None:
        optimizer.zero_grad()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.cfg.grad_clip_norm is not None:
            self._scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.cfg.grad_clip_norm)
        self._scaler.step(optimizer)
        self._scaler.update()

    def _forward(self, i: int, h: Tensor) -> Tensor:
        """The output of layer i and its activation for the output of the layer before."""
        layer = self._stack[i]
        if self.cfg.auto_flatten and _begins_with_vectors(layer, h):
            h = h.flatten(1)
        if self.cfg.normalize_layer_inputs:
            h = _unit(h)
        with torch.autocast(self.device.type, enabled=self.cfg.amp):
            out: Tensor = layer(h)
        return out

    def _features(self, i: int, out: Tensor) -> Tensor:
        """The output as one vector a sample, (B, D), in float32 at least."""
        if out.dim() != 2 and not self.cfg.auto_flatten:
            raise ValueError(
                f"layer {i} outputs {tuple(out.shape)}, not one vector a sample: end it with "
                "pooling and nn.Flatten(), or set auto_flatten")
        return out.flatten(1).to(self._exact)

    def _vectors(self, i: int, features: Tensor) -> Tensor:
        """The class vectors of layer i (K, D), made when its first features (B, D) show D."""
        dim = features.shape[1]
        vectors = self.class_vectors[i]
        if vectors is None:
            cfg = self.cfg
            vectors = self.class_vectors[i] = generate_symmetric_vectors(
                cfg.num_classes, dim, cfg.embeddings_method, cfg.embeddings_candidates,
                device=self.device, dtype=self._exact, seed=cfg.seed)
        if vectors.shape[1] != dim:
            raise ValueError(
                f"layer {i} outputs {dim} values a sample, {vectors.shape[1]} before: "
                "keep the input's size, or end the layer with global pooling")
        return vectors


class _Layer(nn.Module):
    def __init__(self, layer: nn.Module, activation: Activation | None) -> None:
        super().__init__()
        self.layer = layer
        self.activation = activation

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.layer(h)
        return out if self.activation is None else self.activation(out)


def _unit(x: Tensor) -> Tensor:
    """Each sample divided by the norm of all its values; a sample of zeros stays zero."""
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1).view(-1, *[1] * (x.dim() - 1))
    return x / norm.masked_fill(norm == 0, 1)


def _begins_with_vectors(layer: nn.Module, h: Tensor) -> bool:
    """Whether the first parameters that h (B, ...) meets are for h[0].numel() separate values."""
    for part in layer.modules():
        if isinstance(part, nn.Linear | nn.BatchNorm1d):
            width = part.in_features if isinstance(part, nn.Linear) else part.num_features
            return width in (0, h[0].numel())  # 0: a lazy one
        if next(part.parameters(recurse=False), None) is not None:
            return False
    return False


def _check_labels(y: Tensor, *, size: int, classes: int) -> None:
    if y.shape != (size,) or y.is_floating_point():
        raise ValueError(f"labels {tuple(y.shape)} {y.dtype}: integers ({size},) are needed")
    wrong = y[(y < 0) | (y >= classes)]
    if len(wrong):
        raise ValueError(f"label {int(wrong[0])} is outside 0..{classes - 1} (cfg.num_classes)")

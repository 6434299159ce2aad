"""A training step recorded once as a CUDA graph and replayed.

A step of a U-Net is thousands of short kernels. With few images each takes less time than its launch, and the GPU
waits for Python; a graph launches all of them at once (pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). Unlike
compilation it computes the same kernels and is ready within seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from derm_t2im import runtime

if TYPE_CHECKING:
    import torch

#: Runs before recording, in which libraries choose kernels and take their workspaces.
WARM_UP = 3


class Replay:
    """Forward and backward of batches of one shape; gradients add up in ``parameters`` until :meth:`clear`."""

    def __init__(
        self, work: Callable[..., torch.Tensor], parameters: Sequence[torch.nn.Parameter], record: bool
    ) -> None:
        """``work`` computes a loss of tensors, goes backward, and returns the loss; it draws no random numbers.

        Without ``record``, and on a CPU, it is simply called. With it all parameters must get a gradient, and nothing
        but the values of the inputs and of the parameters may change from call to call.
        """
        self._work, self._parameters = work, list(parameters)
        self._record = record and self._parameters[0].device.type == "cuda" and runtime.graphs()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[torch.Tensor] = []
        self._loss: torch.Tensor

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The loss of these inputs, which must have the shapes of the first ones."""
        if not self._record:
            return self._work(*inputs)
        if self._graph is None:
            self._graph = self._recorded(inputs)
        for held, given in zip(self._inputs, inputs, strict=True):
            held.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._loss

    def clear(self) -> None:
        """Set the gradients to nought; a recorded step keeps writing to the same memory."""
        for parameter in self._parameters:
            if self._record and parameter.grad is not None:
                parameter.grad.zero_()
            else:
                parameter.grad = None

    def _recorded(self, inputs: Sequence[torch.Tensor]) -> torch.cuda.CUDAGraph:
        import torch

        device = self._parameters[0].device
        self._inputs = [each.detach().to(device).clone() for each in inputs]
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        beside = torch.cuda.Stream(device)
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                self._work(*self._inputs)
        torch.cuda.current_stream(device).wait_stream(beside)
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()  # the graph takes memory of its own
        graph = torch.cuda.CUDAGraph()
        # Of this thread only: NCCL's looks after its own events meanwhile.
        with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
            self._loss = self._work(*self._inputs)
        self.clear()
        return graph

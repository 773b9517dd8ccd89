"""The threads of a runtime that PyTorch runs."""

from __future__ import annotations


class TorchThreads:
    """Reads and sets the threads of PyTorch, which are those of the whole process."""

    @property
    def threads(self) -> int:
        """The threads of PyTorch."""
        import torch

        return torch.get_num_threads()

    def set_threads(self, threads: int) -> bool:
        """Sets the threads of PyTorch, of the whole process."""
        import torch

        torch.set_num_threads(threads)
        return True

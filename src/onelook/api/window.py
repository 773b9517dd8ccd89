"""A window that shows frames with their detections.

It is one of Tk, which comes with most Pythons: OpenCV's headless build has no windows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2

from onelook.predict.sources import PreparedImage
from onelook.predict.writers.files import drawn
from onelook.predict.writers.trails import Trails
from onelook.reporter import Reporter
from onelook.types import Detections

if TYPE_CHECKING:
    import tkinter

_PART_OF_SCREEN = 0.9


class Window:
    """An open window. Closing it, q and Escape end the run."""

    def __init__(self, root: tkinter.Tk) -> None:
        import tkinter

        self._root, self._is_open, self._trails = root, True, Trails()
        self._label = tkinter.Label(root, borderwidth=0)
        self._label.pack()
        self._largest = root.winfo_screenheight() * _PART_OF_SCREEN, root.winfo_screenwidth() * _PART_OF_SCREEN
        root.protocol("WM_DELETE_WINDOW", self._end)
        for key in ("q", "<Escape>"):
            root.bind(key, lambda event: self._end())

    @classmethod
    def open(cls, title: str, reporter: Reporter) -> Window | None:
        """A window where there is a display; else None, with a warning that says so."""
        try:
            import tkinter
        except ImportError:
            reporter.warning("No window is shown: this Python has no tkinter. What is detected is written to files.")
            return None
        try:
            root = tkinter.Tk(className="onelook")
        except tkinter.TclError as error:
            reporter.warning(f"No window is shown: {error}. What is detected is written to files.")
            return None
        root.title(title)
        return cls(root)

    def show(self, item: PreparedImage, found: Detections) -> bool:
        """Shows a frame with its detections; False where the window was closed."""
        import tkinter

        if self._is_open:
            image = drawn(self._trails.draw(item, found), found)
            height, width = image.shape[:2]
            scale = min(1.0, self._largest[0] / height, self._largest[1] / width)
            if scale < 1:
                image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            height, width = image.shape[:2]
            self._image = tkinter.PhotoImage(data=f"P6 {width} {height} 255 ".encode() + image.tobytes(), format="PPM")
            self._label.configure(image=self._image)
            self._root.update()
        return self._is_open

    def close(self) -> None:
        """Closes the window."""
        self._root.destroy()

    def _end(self) -> None:
        self._is_open = False

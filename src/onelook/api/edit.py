"""`onelook.edit`: a data set with other classes, or several as one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from onelook.api.open import PathLike
from onelook.config import check_arguments
from onelook.data.convert import WritableFormat
from onelook.data.editing import EditResult
from onelook.data.editing import edit as edit_data
from onelook.reporter import Reporter


def edit(
    data: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    rename: Mapping[str, str] | None = None,
    merge: Mapping[str, Sequence[str]] | None = None,
    drop: Sequence[str] = (),
    only: Sequence[str] = (),
    skip_bad: bool = False,
    to: WritableFormat | None = None,
    copy: bool = False,
    reporter: Reporter | None = None,
) -> EditResult:
    """Changes the classes of a data set, joins several into one, and leaves out what is faulty.

    The result is a small YAML file, which is opened like a data set; no image is copied, and the original files stay as
    they are.

    data: one data set or several, of any formats; their classes are joined by name, and their splits too.  out: YAML
    file to make; with `to`, folder to make.  rename: new names of classes by their old ones.  merge: the classes that
    become one, by the name of that one: {"vehicle": ["car", "truck"]}.  drop: classes whose objects are left out.
    only: the classes whose objects are kept; () for all. These four are made in this order; images stay without their
    objects.  skip_bad: leave out faulty entries, and images that are missing, damaged or of another size than
    annotated; the result lists them, and so does a file beside `out`.  to: write a data set of this format instead, of
    hard links to the images.  copy: with `to`, copy the images.  reporter: shows the progress; None prints plain lines
    on standard error.

    Raises UserError for a class that does not exist, for two that would have one name, and for what cannot be read.
    """
    check_arguments(edit, locals())
    given = [data] if isinstance(data, str | os.PathLike) else list(data)
    return edit_data(
        [os.fspath(one) for one in given],
        out=os.fspath(out),
        rename=rename,
        merge={new: [names] if isinstance(names, str) else names for new, names in (merge or {}).items()},
        drop=drop,
        only=only,
        skip_bad=skip_bad,
        to=to,
        copy=copy,
        reporter=reporter,
    )

"""The figure that plots are drawn on; importing it imports matplotlib, so do it when plotting."""

import io

from matplotlib.figure import Figure


class Canvas(Figure):
    """A figure without pyplot, which a notebook shows all the same."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()

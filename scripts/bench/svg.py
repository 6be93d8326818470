"""Charts in SVG, as plain text."""

import math
from html import escape

FONT = "font-family='Helvetica, Arial, sans-serif'"
INK, GRID, MUTED = "#222222", "#dddddd", "#666666"


def text(x, y, content, size=11, anchor="start", colour=INK, weight="normal", rotate=None):
    turn = f" transform='rotate({rotate} {x:.1f} {y:.1f})'" if rotate else ""
    return (f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' fill='{colour}' "
            f"font-weight='{weight}'{turn}>{escape(str(content))}</text>")


def line(x1, y1, x2, y2, colour=GRID, width=1.0, dashes=""):
    dash = f" stroke-dasharray='{dashes}'" if dashes else ""
    return (f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' "
            f"stroke-width='{width}'{dash}/>")


def rectangle(x, y, width, height, colour, tip=""):
    return (f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{max(height, 0):.1f}' fill='{colour}'>"
            f"<title>{escape(tip)}</title></rect>")


def nice_step(span, wanted=5):
    """A step of 1, 2 or 5 times a power of ten that gives about so many ticks."""
    rough = span / wanted
    power = 10 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def short(value):
    """A number as an axis has room for it."""
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{suffix}"
    return f"{value:g}"


class Panel:
    """A chart with a title, a y axis from 0 (or by powers of ten), and a legend below."""

    MARGIN_LEFT, MARGIN_TOP, MARGIN_BOTTOM, LEGEND_LINE = 64, 40, 40, 16

    def __init__(self, title, y_label, width, height, top, is_logarithmic=False, bottom=0.0):
        self.width, self.height = width, height
        self.is_logarithmic = is_logarithmic
        self.parts = [text(0, 14, title, 14, weight="bold")]
        self.left, self.right = self.MARGIN_LEFT, width - 8
        self.top, self.bottom = self.MARGIN_TOP, height - self.MARGIN_BOTTOM
        if is_logarithmic:
            self.low, self.high = 10 ** math.floor(math.log10(bottom)), 10 ** math.ceil(math.log10(top))
            ticks = [10 ** power for power in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)]
        else:
            step = nice_step(top)
            self.low, self.high = 0.0, step * math.ceil(top / step)
            ticks = [step * number for number in range(round(self.high / step) + 1)]
        for tick in ticks:
            self.parts.append(line(self.left, self.y(tick), self.right, self.y(tick)))
            self.parts.append(text(self.left - 6, self.y(tick) + 4, short(round(tick, 10)), anchor="end"))
        self.parts.append(text(0, 32, y_label, 11, colour=MUTED))

    def y(self, value):
        if self.is_logarithmic:
            span = math.log10(self.high / self.low)
            share = math.log10(max(value, self.low) / self.low) / span
        else:
            share = value / self.high
        return self.bottom - share * (self.bottom - self.top)

    def x_label(self, label):
        self.parts.append(text((self.left + self.right) / 2, self.bottom + 34, label, 11, "middle", MUTED))

    def legend(self, colours):
        """Names in rows below the chart, which grows by them."""
        x, y = self.left, self.height + 8
        for name, colour in colours.items():
            needed = 24 + 6.4 * len(name)
            if x + needed > self.width:
                x, y = self.left, y + self.LEGEND_LINE
            self.parts += [rectangle(x, y - 9, 10, 10, colour), text(x + 15, y, name)]
            x += needed
        self.height = y + 18

    def bars(self, groups, colours, values, marks=None):
        """`values[group, name]`; `marks[group, name]` are drawn as what is aimed at."""
        names = list(colours)
        group_width = (self.right - self.left) / len(groups)
        for number, group in enumerate(groups):
            there = [name for name in names if (group, name) in values]
            bar = min(group_width * 0.86 / max(len(there), 1), 44)
            x = self.left + group_width * (number + 0.5) - bar * len(there) / 2
            for name in there:
                value = values[group, name]
                self.parts.append(rectangle(x + 1, self.y(value), bar - 2, self.bottom - self.y(value), colours[name],
                                            f"{group}, {name}: {value:,.3g}"))
                if marks and (group, name) in marks:
                    y = self.y(marks[group, name])
                    self.parts.append(line(x - 1, y, x + bar + 1, y, INK, 2.5))
                x += bar
            self.parts.append(text(self.left + group_width * (number + 0.5), self.bottom + 16, group, 11, "middle"))
        self.parts.append(line(self.left, self.bottom, self.right, self.bottom, INK))
        self.legend({name: colour for name, colour in colours.items()
                     if any((group, name) in values for group in groups)})

    def lines(self, positions, colours, values):
        """`values[position, name]`, the positions evenly spaced."""
        step = (self.right - self.left) / len(positions)
        place = {position: self.left + step * (number + 0.5) for number, position in enumerate(positions)}
        for position in positions:
            self.parts.append(text(place[position], self.bottom + 16, short(position), 11, "middle"))
        self.parts.append(line(self.left, self.bottom, self.right, self.bottom, INK))
        drawn = {}
        for name, colour in colours.items():
            points = [(place[position], self.y(values[position, name]), values[position, name])
                      for position in positions if (position, name) in values]
            if not points:
                continue
            drawn[name] = colour
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
            self.parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
            self.parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'>"
                           f"<title>{escape(name)}: {value:,.3g}</title></circle>" for x, y, value in points]
        self.legend(drawn)


def page(title, subtitle, panels, columns=2, gap=40):
    """The panels in rows."""
    rows = [panels[start:start + columns] for start in range(0, len(panels), columns)]
    width = max(sum(panel.width + gap for panel in row) for row in rows) + gap
    y, body = 84, []
    for row in rows:
        x = gap
        for panel in row:
            body.append(f"<g transform='translate({x} {y})'>" + "\n".join(panel.parts) + "</g>")
            x += panel.width + gap
        y += max(panel.height for panel in row) + gap
    head = [text(gap, 36, title, 20, weight="bold"), text(gap, 56, subtitle, 11, colour=MUTED)]
    return (f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{y}' viewBox='0 0 {width} {y}' {FONT}>\n"
            f"<rect width='{width}' height='{y}' fill='white'/>\n" + "\n".join(head + body) + "\n</svg>\n")

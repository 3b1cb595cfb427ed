"use strict";
(async () => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures-data");
  const dark = read("dark-colours");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const config = { displayModeBar: false, scrollZoom: false, locale: "en" };
  // The size of a sheet of A4 or Letter in CSS pixels; figures shrink so that two fit.
  const PAPER = { width: 680, height: 840, share: 0.8 };

  // Dark backgrounds have other colours; paper is always light.
  const coloured = (figure, isDark) =>
    JSON.parse(
      isDark ? JSON.stringify(figure).replace(/#[0-9a-f]{6}/g, (c) => dark[c] || c)
             : JSON.stringify(figure)
    );

  // Fewer and shorter names on an axis where space is short.
  const thin = (axis, names, room, longest) => {
    const step = Math.max(1, Math.ceil((names.length * 26) / room));
    axis.tickvals = names.filter((_, i) => i % step === 0);
    axis.ticktext = axis.tickvals.map((name) =>
      name.length > longest ? name.slice(0, longest - 1) + "…" : name
    );
  };

  const fit = (figure, plot, onPaper) => {
    const { data, layout } = figure;
    const width = onPaper ? PAPER.width : plot.clientWidth;
    const narrow = width < 480;
    layout.width = width;
    layout.height = figure.height;
    if (plot.closest(".square")) layout.height = Math.min(layout.height, Math.max(width, 300));
    if (onPaper) layout.height = Math.min(PAPER.share * layout.height, PAPER.height);
    plot.style.height = `${layout.height}px`;
    if (onPaper || narrow) layout.font.size = 11;
    for (const trace of data) {
      if (trace.type === "heatmap") {
        if (narrow) trace.colorbar.thickness = 8;
        thin(layout.xaxis, trace.x, 0.85 * width - 60, 99);
        if (layout.height < 20 * trace.y.length) thin(layout.yaxis, trace.y, 2 * layout.height, 99);
      }
    }
    const names = layout.yaxis.categoryarray;
    if (narrow && names) {
      layout.yaxis.tickvals = names;
      layout.yaxis.ticktext = names.map((n) => (n.length > 17 ? n.slice(0, 16) + "…" : n));
      delete layout.yaxis.tickmode;
    }
    if (narrow && layout.xaxis.dtick === 1 && data[0].error_y) layout.xaxis.dtick = 2;
    return figure;
  };

  const draw = async (isDark, onPaper = false) => {
    for (const plot of document.querySelectorAll("[data-figure]")) {
      const figure = fit(coloured(figures[plot.dataset.figure], isDark), plot, onPaper);
      if (onPaper) figure.layout.paper_bgcolor = figure.layout.plot_bgcolor = "#ffffff";
      await Plotly.react(plot, figure.data, figure.layout, config);
    }
    document.documentElement.dataset.drawn = isDark ? "dark" : "light";
  };

  const unpack = async (id) => {
    const packed = document.getElementById(id);
    const bytes = Uint8Array.from(atob(packed.textContent.trim()), (c) => c.charCodeAt(0));
    packed.remove();
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };

  const value = (row, column, isNumber) => {
    const text = row.cells[column].textContent.trim();
    if (text === "") return null;
    if (!isNumber) return text;
    // Of an interval its lower end.
    return Number.parseFloat(text.replaceAll(",", "").replace("\u2212", "-").replace("<", ""));
  };

  const compare = (a, b) => {
    // Missing values come last in either order.
    if (a === null || b === null) return a === b ? 0 : a === null ? Infinity : -Infinity;
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };

  const sortable = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows].map((row) => [value(row, column, head.classList.contains("n")), row]);
        rows.sort(([a], [b]) => {
          const order = compare(a, b);
          return Number.isFinite(order) && !up ? -order : order;
        });
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  };

  document.querySelectorAll("table.sortable").forEach(sortable);
  try {
    await unpack("plotly-packed");
    await draw(prefersDark.matches);
  } catch (error) {
    for (const plot of document.querySelectorAll("[data-figure]")) {
      plot.style.height = "auto";
      plot.textContent = "This browser cannot draw the figure; the table below has the same data.";
    }
    throw error;
  }
  let width = innerWidth;
  let waiting = 0;
  prefersDark.addEventListener("change", () => draw(prefersDark.matches));
  addEventListener("beforeprint", () => draw(false, true));
  addEventListener("afterprint", () => draw(prefersDark.matches));
  addEventListener("resize", () => {
    // Not where only the height changes: the bars of a phone come and go.
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(() => draw(prefersDark.matches), 150);
  });
})();

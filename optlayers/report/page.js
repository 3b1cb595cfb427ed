"use strict";
(async () => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures-data");
  const dark = read("dark-colours");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const config = { displayModeBar: false, responsive: true, scrollZoom: false, locale: "en" };

  // Every colour has a twin for dark backgrounds; on paper it is always light.
  const coloured = (figure, isDark) =>
    JSON.parse(
      isDark ? JSON.stringify(figure).replace(/#[0-9a-f]{6}/g, (c) => dark[c] || c)
             : JSON.stringify(figure)
    );

  const fit = (figure, plot) => {
    // On a phone every bit of width is for the marks.
    if (plot.clientWidth < 480) {
      figure.layout.font.size = 11;
      for (const trace of figure.data) if (trace.colorbar) trace.colorbar.thickness = 8;
      for (const name of ["xaxis", "yaxis"]) {
        const axis = figure.layout[name];
        if (axis && axis.dtick === 1 && figure.data[0].error_y) axis.dtick = 2;
      }
    }
    return figure;
  };

  const draw = async (isDark) => {
    for (const plot of document.querySelectorAll("[data-figure]")) {
      const figure = fit(coloured(figures[plot.dataset.figure], isDark), plot);
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

  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    const number = Number(text);
    return text === "" ? null : Number.isNaN(number) ? text : number;
  };

  const compare = (a, b) => {
    // What is missing stands last, whichever way the others go.
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
        const rows = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
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
      plot.textContent = "This browser cannot draw the figure; the table below says the same.";
    }
    throw error;
  }
  prefersDark.addEventListener("change", () => draw(prefersDark.matches));
  addEventListener("beforeprint", () => draw(false));
  addEventListener("afterprint", () => draw(prefersDark.matches));
})();

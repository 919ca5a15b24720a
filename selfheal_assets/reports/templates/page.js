"use strict";
(() => {
  const plots = [...document.querySelectorAll("[data-figure]")];

  // Whoever comes to a place that is folded finds it open: by a link, a click on a mark, or the address.
  const open = (name) => {
    const target = name ? document.getElementById(name) : null;
    if (!target) return null;
    for (const fold of target.querySelectorAll(":scope > details")) fold.open = true;
    return target;
  };
  window.addEventListener("hashchange", () => open(location.hash.slice(1)));
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#"]');
    if (link) open(link.getAttribute("href").slice(1));
  });
  open(location.hash.slice(1));

  if (plots.length && !window.Plotly) {
    for (const plot of plots) {
      plot.classList.add("notice");
      plot.style.minHeight = "0";
      plot.textContent = "This plot needs plotly.min.js in the folder of this page. The tables hold the same numbers.";
    }
    for (const fold of document.querySelectorAll("details.fold")) fold.open = true;
    return;
  }
  for (const plot of plots) {
    const figure = JSON.parse(document.getElementById(plot.dataset.figure).textContent);
    Plotly.newPlot(plot, figure.data, figure.layout, { displayModeBar: false, responsive: true });
  }

  // A click on a mark that names a place in this page goes there and opens it.
  for (const plot of plots) {
    plot.on("plotly_click", (event) => {
      const name = event.points[0]?.customdata?.[0];
      if (!open(name)) return;
      history.replaceState(null, "", `#${name}`);
      document.getElementById(name).scrollIntoView({ block: "start" });
    });
  }

  // On paper: plots as wide as the sheet, and every reason open; tables of many rows stay on the screen.
  const paper = 680;
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open], .long)")];
    for (const fold of opened) fold.open = true;
    for (const plot of plots) Plotly.relayout(plot, { width: paper });
  });
  window.addEventListener("afterprint", () => {
    for (const fold of opened) fold.open = false;
    for (const plot of plots) Plotly.relayout(plot, { width: null, autosize: true });
  });
})();

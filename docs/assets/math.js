// Formulas, from the site's own copy of KaTeX, as MathML: neither fonts nor styles are needed.
document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll(".arithmatex")) {
    const display = place.tagName === "DIV";
    const source = place.textContent.trim().replace(/^\\[[(]|\\[\])]$/g, "");
    katex.render(source, place, { output: "mathml", displayMode: display, throwOnError: true });
  }
});

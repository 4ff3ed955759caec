// On paper nothing can be opened, so all is open while it is printed.
const closed = [];
addEventListener("beforeprint", () => {
  closed.push(...document.querySelectorAll("details:not([open])"));
  for (const one of closed) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of closed.splice(0)) one.open = false;
});

// Draws the charts of the page. Expressions are interpreted, never compiled, so the page needs no eval.
for (const box of document.querySelectorAll("[data-spec]")) {
  const spec = JSON.parse(document.getElementById(box.dataset.spec).textContent);
  const options = {
    ast: true,
    renderer: "svg",
    actions: false,
    defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
  };
  window.vegaEmbed(box, spec, options).then(
    () => box.setAttribute("data-drawn", ""),
    (error) => { box.textContent = `This chart cannot be drawn: ${error.message}`; },
  );
}

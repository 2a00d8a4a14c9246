/* What is wider than its box says so: it fades at the edge, and the keyboard reaches it. */
(() => {
  const boxes = document.querySelectorAll(
    ".bd-article pre, .bd-article div.math, .bd-article table");

  function look(box) {
    const rest = box.scrollWidth - box.clientWidth;
    box.classList.toggle("more", rest > 1 && box.scrollLeft < rest - 1);
    if (rest > 1) box.tabIndex = 0; else box.removeAttribute("tabindex");
  }

  const watch = new ResizeObserver((entries) => entries.forEach((e) => look(e.target)));
  for (const box of boxes) {
    watch.observe(box);
    box.addEventListener("scroll", () => look(box), { passive: true });
  }
})();

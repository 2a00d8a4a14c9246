/* A card for a link that the pointer or the focus is on: signature and docstring of a
   name, or the figure, formula or section of this page that it leads to, or the reference
   that it cites. It stays while the pointer is on it, and Escape closes it. */
(() => {
  const card = document.createElement("div");
  card.id = "name-card";
  card.setAttribute("role", "tooltip");
  card.hidden = true;
  document.body.append(card);
  let shown, timer;

  function hide() {
    clearTimeout(timer);
    if (shown) shown.removeAttribute("aria-describedby");
    card.hidden = true;
    shown = null;
  }

  function named(link) { // what the card of a name says
    const found = NAMES[decodeURI(link.hash).replace("#def-", "")];
    const own = document.getElementById(decodeURI(link.hash).slice(1))?.closest(".cell");
    if (!found || own?.contains(link)) return []; // where it is defined, all can be read
    const code = document.createElement("code");
    code.textContent = found[0];
    return [code, found[1]];
  }

  function copied(element) { // a part of this page, which has its ids already
    const copy = element.cloneNode(true);
    for (const each of [copy, ...copy.querySelectorAll("[id]")]) each.removeAttribute("id");
    copy.querySelectorAll(".headerlink, button, .live").forEach((each) => each.remove());
    return copy;
  }

  function told(link) { // what the card of any link says
    if (link.matches("a.name")) return named(link);
    if (link.title) link.dataset.told = link.title; // the browser shows no second card
    link.removeAttribute("title");
    if (link.dataset.told) return [link.dataset.told];
    const there = link.hash && document.getElementById(decodeURIComponent(link.hash.slice(1)));
    if (link.pathname !== location.pathname || !there) return [];
    const whole = there.closest("figure, div.math");
    if (whole) return [copied(whole)];
    return there.matches("section") ? [...there.children].slice(0, 2).map(copied) : [];
  }

  function show(link) {
    if (link === shown) return clearTimeout(timer);
    const parts = told(link);
    if (!parts.length) return clearTimeout(timer);
    hide();
    card.replaceChildren(...parts);
    card.hidden = false;
    const at = link.getBoundingClientRect();
    const left = Math.min(at.left, innerWidth - card.offsetWidth - 12);
    const above = at.bottom + card.offsetHeight + 6 > innerHeight;
    card.style.left = `${Math.max(6, left) + scrollX}px`;
    card.style.top = `${scrollY + (above ? at.top - card.offsetHeight - 4 : at.bottom + 4)}px`;
    link.setAttribute("aria-describedby", card.id);
    shown = link;
  }

  const LINKS = ".bd-article a.name:not(.torch), .bd-article a.internal";
  const linked = (event) => event.target.closest?.(LINKS);
  const leave = () => { clearTimeout(timer); timer = setTimeout(hide, 250); };
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return;
    const link = linked(event);
    if (link) {
      clearTimeout(timer);
      timer = setTimeout(() => show(link), shown ? 0 : 150);
    } else if (card.contains(event.target)) {
      clearTimeout(timer);
    } else if (shown) {
      leave();
    } else {
      clearTimeout(timer);
    }
  });
  document.addEventListener("focusin", (event) => {
    const link = linked(event);
    if (link) show(link); else hide();
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
})();

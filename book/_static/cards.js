/* A card with signature and docstring for a name that the pointer or the focus is on.
   It stays while the pointer is on it, and Escape closes it. */
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

  function show(link) {
    const name = decodeURI(link.hash).replace("#def-", "");
    if (!NAMES[name] || link === shown) return clearTimeout(timer);
    hide();
    const [signature, text] = NAMES[name];
    const code = document.createElement("code");
    code.textContent = signature;
    card.replaceChildren(code, text);
    card.hidden = false;
    const at = link.getBoundingClientRect();
    const left = Math.min(at.left, innerWidth - card.offsetWidth - 12);
    const above = at.bottom + card.offsetHeight + 6 > innerHeight;
    card.style.left = `${Math.max(6, left) + scrollX}px`;
    card.style.top = `${scrollY + (above ? at.top - card.offsetHeight - 4 : at.bottom + 4)}px`;
    link.setAttribute("aria-describedby", card.id);
    shown = link;
  }

  const named = (event) => event.target.closest?.("a.name:not(.torch)");
  const leave = () => { clearTimeout(timer); timer = setTimeout(hide, 250); };
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return;
    const link = named(event);
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
    const link = named(event);
    if (link) show(link); else hide();
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
})();

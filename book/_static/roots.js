/* Chromium leaves room behind a root for the widest sign of its font, not for the one that it
   draws. Take away what no sign fills; in other browsers that is nothing. */
document.fonts.ready.then(() => {
  for (const root of document.querySelectorAll("msqrt")) {
    const end = root.lastElementChild.getBoundingClientRect().right;
    const room = root.getBoundingClientRect().right - end;
    const size = parseFloat(getComputedStyle(root).fontSize);
    root.style.marginInlineEnd = `${-room / size}em`;
  }
});

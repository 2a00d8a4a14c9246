/* "Let it write", on the cover, brings the live figure as the button below it does. */
document.querySelector('.ways a[href="#fig-cover"]')?.addEventListener("click", () =>
  document.querySelector(".cover .invite button")?.click());

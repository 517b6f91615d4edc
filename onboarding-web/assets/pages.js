// Comfort only: everything works without it.
'use strict';

for (const button of document.querySelectorAll('button.copy')) {
  if (!navigator.clipboard) break;
  button.hidden = false;
  const label = button.textContent;
  button.addEventListener('click', async () => {
    const from = document.getElementById(button.dataset.copy);
    await navigator.clipboard.writeText(from.value ?? from.textContent);
    button.textContent = button.dataset.copied;
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

// A part of the page that is kept up to date while somebody looks at it.
for (const live of document.querySelectorAll('[data-live]')) {
  let shown = live.innerHTML;
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(live.dataset.live, { credentials: 'same-origin', redirect: 'error' });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
      const fresh = page.getElementById(live.id);
      if (fresh && fresh.innerHTML !== shown) {
        shown = fresh.innerHTML;
        live.innerHTML = shown;
      }
    } catch { /* the next one will tell */ }
  }, Number(live.dataset.every));
}

for (const link of document.querySelectorAll('[data-reload]')) {
  setTimeout(() => location.assign(link.href), Number(link.dataset.reload));
}

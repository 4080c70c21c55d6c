// The HTML: two whole pages, and the fragments that the streams send.
import { STEPS } from './shop.js'

const PAGES = { '/': 'Orders', '/summary': 'Summary' }

export function page (path, datastar, content) {
  const links = Object.entries(PAGES).map(([to, title]) => `<a href="${to}"${to === path ? ' aria-current="page"' : ''}>${title}</a>`)
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${PAGES[path]} – octa-star-streams with Datastar</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/style.css">
<script type="module" src="/octa-star/tab-id.js"></script>
<script type="module" src="${datastar}"></script>
<body data-signals="{tabId: octaStar.tabId()}">
  <header><strong>The shop</strong><nav>${links.join('')}</nav></header>
  ${content}
</body>
</html>`
}

// With `retry: 'error'` a page also reconnects after a 503, the response of a server that is closing.
export const ordersPage = orders => `
  <main data-init="@get('/orders/stream', {retry: 'error'})">
    <form data-on:submit="@post('/orders')">
      <input data-bind:item placeholder="What would you like?" aria-label="What to order" required maxlength="60">
      <button>Order it</button>
    </form>
    ${ordersList(orders)}
  </main>`

export const ordersList = orders => `<ul id="orders">${orders.map(orderRow).join('')}</ul>`

const orderRow = ({ id, item, step }) => `
  <li id="order-${id}" class="${STEPS[step]}">
    <span class="item">${escape(item)}</span>
    <span class="step">${STEPS[step]}</span>
    <button data-on:click="@post('/orders/${id}/advance')"${step === STEPS.length - 1 ? ' disabled' : ''}>Next step</button>
  </li>`

export const summaryPage = orders => `
  <main data-init="@get('/summary/stream', {retry: 'error'})">
    ${summary(orders)}
  </main>`

export const summary = orders => `<dl id="summary">${STEPS.map((name, step) => `
  <div class="${name}"><dt>${name}</dt><dd>${orders.filter(order => order.step === step).length}</dd></div>`).join('')}
</dl>`

const escape = text => text.replace(/[&<>"']/g, character => `&#${character.charCodeAt(0)};`)

// The HTML: a whole page for each department, and the fragments that the streams send.
import { PRODUCTS } from './shop.js'

export const DEPARTMENTS = { '/': 'Kitchen', '/office': 'Office' }

// By default Datastar gives up after ten attempts, and never reconnects after a clean end. Some engines take a broken connection for a clean
// end. With these options a page always reconnects. The page stops at the 204 that follows a farewell.
const OPEN = "@get('/stream', {retry: 'always', retryMaxCount: Infinity})"

export function page (path, datastar, stock, orders) {
  const links = Object.entries(DEPARTMENTS).map(([to, name]) => `<a href="${to}"${to === path ? ' aria-current="page"' : ''}>${name}</a>`)
  const products = Object.keys(PRODUCTS).filter(product => PRODUCTS[product].department === DEPARTMENTS[path])
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${DEPARTMENTS[path]} – octa-star-streams with Datastar</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/style.css">
<script type="module" src="/octa-star/tab-id.js"></script>
<script type="module" src="${datastar}"></script>
<body data-signals='{tabId: octaStar.tabId(), _stock: ${JSON.stringify(stock)}}' data-init="${OPEN}">
  <header><strong>The shop</strong><nav>${links.join('')}</nav></header>
  <main>
    <ul>${products.map(product => productRow(product, stock)).join('')}</ul>
    ${notice('')}
    ${orderList(orders)}
  </main>
</body>
</html>`
}

// The stock is a signal, because a patch of a signal does no harm on the page of another department, which does not show the product.
const productRow = (product, stock) => `
  <li>
    <span>${PRODUCTS[product].name}</span>
    <span class="left" data-text="$_stock.${product} + ' left'">${stock[product]} left</span>
    <button data-on:click="@post('/orders/${product}')" data-attr:disabled="$_stock.${product} === 0">Order</button>
  </li>`

export const orderList = orders => `
  <section id="orders">
    <h2>Your orders</h2>
    ${orders.length === 0 ? '<p>None yet</p>' : `<ol reversed>${orders.map(product => `<li>${PRODUCTS[product].name}</li>`).join('')}</ol>`}
  </section>`

export const notice = text => `<p id="notice" role="status">${text}</p>`

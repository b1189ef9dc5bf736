// The admin's key, for as long as this tab is open. A browser sends no such header by itself, so each request adds it.

const NAME = "tierserve-key";

export const wantsKey = document.body.dataset.keys === "yes";

export const key = () => sessionStorage.getItem(NAME) ?? "";

export const keep = (value) => sessionStorage.setItem(NAME, value);

export const forget = () => sessionStorage.removeItem(NAME);

export const headers = (more = {}) => (key() ? { ...more, authorization: `Bearer ${key()}` } : more);

// The front door: the ministry's name, its people to sign in as, and a form for anybody else.

import { avatar, h, icon, seal } from "./dom.js";

// loginView draws the front door; enter(user, password) signs in and may throw.
export function loginView(demo, enter) {
  const message = h("p.error", { role: "alert" });
  const busy = async (form, user, password) => {
    message.textContent = "";
    form.classList.add("busy");
    try {
      await enter(user, password);
    } catch (error) {
      message.textContent = error.message;
      form.classList.remove("busy");
    }
  };

  const card = h("div.card");
  const people = demo.accounts.map((account) =>
    h("button.person", { type: "button", "data-user": account.user, onclick: () => busy(card, account.user, account.password) },
      avatar(account.name, `@${account.user}:${demo.house.server}`, demo.house),
      h("span.who", h("strong", account.name), h("small", account.role)),
      icon("door")));

  const user = h("input", { name: "user", autocomplete: "username", placeholder: "Name", required: true, "aria-label": "Name", spellcheck: false });
  const password = h("input", { name: "password", type: "password", autocomplete: "current-password", placeholder: "Password", required: true, "aria-label": "Password" });
  const form = h("form", {
    onsubmit: (event) => {
      event.preventDefault();
      busy(card, user.value.trim().replace(/^@/, "").split(":")[0], password.value);
    },
  }, user, password, h("button.primary", { type: "submit" }, "Sign in"));

  card.append(
    h("h2", "Sign in"),
    h("p.muted", "Choose somebody. Open a second window and choose somebody else, here or in the other ministry."),
    h("div.people", people),
    h("div.or", h("span", "or with a name")),
    form,
    message);

  return h("main.login",
    h("section.cover",
      h("div.mark", seal(64), h("span", "Chancery")),
      h("div.title", h("p.eyebrow", "Ministry of the"), h("h1", demo.house.name.replace(/^Ministry of (the )?/, "")), h("p.motto", demo.house.motto)),
      h("p.server", demo.house.server)),
    h("section.reception", card));
}

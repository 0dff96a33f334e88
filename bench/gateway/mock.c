/*
 * mock: an upstream that speaks just enough of the OpenAI wire to load a gateway, and costs almost nothing itself.
 *
 *   mock [PORT]          (0 = any free port; the port that it got is the one line on stdout)
 *
 * One thread, one epoll set, answers built once per model id and written from there: what a benchmark sees is
 * the gateway in front of it. The model id in the request chooses the behaviour:
 *
 *   mock                    answers at once; a stream has 100 content chunks, all in one write
 *   mock-250ms              the same, 250 ms after the request came (any number of ms)
 *   mock-burst-N            a stream of N content chunks, the whole stream in one write
 *   mock-stream-N           a stream of N content chunks, each in a write of its own, as fast as the socket takes them
 *   mock-paced-N-Pms        a stream of N content chunks, one each P ms, the first at once (default 10 chunks, 5 ms)
 *
 * POST .../chat/completions answers, GET .../models lists, GET /stats says how many requests were seen.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_CHUNKS = 100000,
    MAX_REQUEST = 4 << 20,
    MAX_PROFILES = 256,
    MAX_MODEL_ID = 96,
    EVENTS = 512,
};

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---------------------------------------------------------------- bytes that grow */

struct bytes {
    char *at;
    size_t len, room;
};

static void reserve(struct bytes *b, size_t more) {
    if (b->len + more <= b->room) return;
    b->room = (b->len + more) * 2;
    if (!(b->at = realloc(b->at, b->room))) die("realloc");
}

__attribute__((format(printf, 2, 3))) static void append(struct bytes *b, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    reserve(b, (size_t)n + 1);
    vsnprintf(b->at + b->len, (size_t)n + 1, format, again);
    b->len += (size_t)n;
    va_end(args);
    va_end(again);
}

/* ---------------------------------------------------------------- answers, built once per model id */

/* A script is the whole answer plus the offsets up to which each step may write. */
struct script {
    struct bytes wire;
    size_t *stops;
    int steps;
};

struct profile {
    char model[MAX_MODEL_ID];
    int chunks, delay_ms, gap_ms;
    bool one_write;
    struct script unary, stream, stream_with_usage;
};

static const char *const WORDS[] = {"the", " narrow", " strip", " of", " land", " carries", " every", " crossing", " and", " keeps", " count"};
enum { N_WORDS = sizeof WORDS / sizeof *WORDS, UNARY_WORDS = 110, PROMPT_TOKENS = 212 };

static void stop_here(struct script *s) {
    if (!(s->stops = realloc(s->stops, sizeof *s->stops * (size_t)(s->steps + 1)))) die("realloc");
    s->stops[s->steps++] = s->wire.len;
}

static void append_usage(struct bytes *b, int completion) {
    append(b,
           "{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
           "\"prompt_tokens_details\":{\"cached_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":0}}",
           PROMPT_TOKENS, completion, PROMPT_TOKENS + completion);
}

static void append_body(struct bytes *to, const char *status, const struct bytes *body) {
    append(to,
           "HTTP/1.1 %s\r\nContent-Type: application/json\r\nx-request-id: req_mock0000000000000001\r\n"
           "Content-Length: %zu\r\n\r\n%.*s",
           status, body->len, (int)body->len, body->at);
}

static void build_unary(struct profile *p) {
    struct bytes body = {0};
    append(&body,
           "{\"id\":\"chatcmpl-mock000000000000000000001\",\"object\":\"chat.completion\",\"created\":1767225600,"
           "\"model\":\"%s\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"",
           p->model);
    for (int i = 0; i < UNARY_WORDS; i++) append(&body, "%s", WORDS[i % N_WORDS]);
    append(&body, "\",\"refusal\":null,\"annotations\":[]},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":");
    append_usage(&body, UNARY_WORDS);
    append(&body, ",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_mock000001\"}");
    append_body(&p->unary.wire, "200 OK", &body);
    stop_here(&p->unary);
    free(body.at);
}

/* One SSE event in one HTTP chunk, as inference servers send it. */
static void append_event(struct bytes *b, const struct bytes *data) {
    append(b, "%zx\r\ndata: %.*s\n\n\r\n", data->len + 8, (int)data->len, data->at);
}

static void append_delta(struct bytes *b, const struct profile *p, bool usage, const char *delta, const char *finish) {
    struct bytes data = {0};
    append(&data,
           "{\"id\":\"chatcmpl-mock000000000000000000001\",\"object\":\"chat.completion.chunk\",\"created\":1767225600,"
           "\"model\":\"%s\",\"system_fingerprint\":\"fp_mock000001\",\"choices\":[{\"index\":0,\"delta\":%s,"
           "\"logprobs\":null,\"finish_reason\":%s}]%s}",
           p->model, delta, finish, usage ? ",\"usage\":null" : "");
    append_event(b, &data);
    free(data.at);
}

static void build_stream(struct profile *p, struct script *s, bool usage) {
    struct bytes *w = &s->wire;
    append(w,
           "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
           "x-request-id: req_mock0000000000000001\r\nTransfer-Encoding: chunked\r\n\r\n");
    append_delta(w, p, usage, "{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}", "null");
    for (int i = 0; i < p->chunks; i++) {
        char delta[64];
        snprintf(delta, sizeof delta, "{\"content\":\"%s\"}", WORDS[i % N_WORDS]);
        append_delta(w, p, usage, delta, "null");
        if (!p->one_write) stop_here(s);
    }
    append_delta(w, p, usage, "{}", "\"stop\"");
    if (usage) {
        struct bytes data = {0};
        append(&data,
               "{\"id\":\"chatcmpl-mock000000000000000000001\",\"object\":\"chat.completion.chunk\","
               "\"created\":1767225600,\"model\":\"%s\",\"system_fingerprint\":\"fp_mock000001\",\"choices\":[],\"usage\":",
               p->model);
        append_usage(&data, p->chunks);
        append(&data, "}");
        append_event(w, &data);
        free(data.at);
    }
    append_event(w, &(struct bytes){.at = "[DONE]", .len = 6});
    append(w, "0\r\n\r\n");
    stop_here(s);
}

static void read_model_id(struct profile *p) {
    p->chunks = 100;
    p->one_write = true;
    char id[MAX_MODEL_ID], *rest = id;
    memcpy(id, p->model, sizeof id);
    for (char *part; (part = strsep(&rest, "-"));) {
        if (!strcmp(part, "stream")) p->one_write = false;
        if (!strcmp(part, "paced")) p->one_write = false, p->chunks = 10, p->gap_ms = 5;
        char *unit;
        long n = strtol(part, &unit, 10);
        if (unit == part || n < 0 || n > MAX_CHUNKS) continue;
        if (!strcmp(unit, "ms")) *(p->gap_ms ? &p->gap_ms : &p->delay_ms) = (int)n;
        else if (!*unit) p->chunks = (int)n;
    }
}

static struct profile *profiles[MAX_PROFILES];

static struct profile *profile_of(const char *model) {
    int i = 0;
    for (; i < MAX_PROFILES && profiles[i]; i++)
        if (!strcmp(profiles[i]->model, model)) return profiles[i];
    if (i == MAX_PROFILES) return profiles[0];
    struct profile *p = calloc(1, sizeof *p);
    if (!p) die("calloc");
    strcpy(p->model, model);
    read_model_id(p);
    build_unary(p);
    build_stream(p, &p->stream, false);
    build_stream(p, &p->stream_with_usage, true);
    return profiles[i] = p;
}

/* ---------------------------------------------------------------- connections */

struct conn {
    int fd;
    struct bytes in;
    const struct script *script; /* NULL while no answer is under way */
    struct script once;          /* an answer built for this request alone */
    int step, gap_ms;
    size_t sent;
    int64_t due_ms; /* the script waits until then; 0 = it does not wait */
    bool wants_out, last;
    struct conn *next_dead;
};

static int epoll_fd;
static struct conn *dead;
static uint64_t requests_seen, cancelled;

/* Waiting connections: a binary heap by due time. An entry whose connection moved on is skipped when it surfaces. */
struct alarm {
    int64_t due_ms;
    int fd;
};
static struct alarm *alarms;
static size_t n_alarms, room_alarms;
static struct conn **conn_of_fd;
static size_t n_conn_of_fd;

static void alarm_push(struct conn *c, int64_t due_ms) {
    if (n_alarms == room_alarms) {
        room_alarms = room_alarms ? room_alarms * 2 : 1024;
        if (!(alarms = realloc(alarms, room_alarms * sizeof *alarms))) die("realloc");
    }
    c->due_ms = due_ms;
    size_t i = n_alarms++;
    for (; i && alarms[(i - 1) / 2].due_ms > due_ms; i = (i - 1) / 2) alarms[i] = alarms[(i - 1) / 2];
    alarms[i] = (struct alarm){due_ms, c->fd};
}

static struct alarm alarm_pop(void) {
    struct alarm first = alarms[0], last = alarms[--n_alarms];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < n_alarms; i = child) {
        if (child + 1 < n_alarms && alarms[child + 1].due_ms < alarms[child].due_ms) child++;
        if (alarms[child].due_ms >= last.due_ms) break;
        alarms[i] = alarms[child];
    }
    alarms[i] = last;
    return first;
}

static void watch(struct conn *c, bool out) {
    if (c->wants_out == out) return;
    c->wants_out = out;
    struct epoll_event e = {.events = EPOLLIN | (out ? (uint32_t)EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

/* The struct lives until the current batch of events is through, since a later event may still point at it. */
static void hang_up(struct conn *c) {
    if (c->fd < 0) return;
    if (c->script) cancelled++;
    conn_of_fd[c->fd] = NULL;
    close(c->fd);
    c->fd = -1;
    c->next_dead = dead;
    dead = c;
}

static void bury_the_dead(void) {
    while (dead) {
        struct conn *c = dead;
        dead = c->next_dead;
        free(c->in.at);
        free(c->once.wire.at);
        free(c->once.stops);
        free(c);
    }
}

/* ---------------------------------------------------------------- requests */

/* True when `"name"` is followed by `: true`. Our prompts never quote these names, so a byte search is enough. */
static bool says_true(const char *body, size_t len, const char *quoted_name) {
    size_t n = strlen(quoted_name);
    const char *at = memmem(body, len, quoted_name, n), *end = body + len;
    if (!at) return false;
    for (at += n; at < end && (isspace((unsigned char)*at) || *at == ':'); at++) {}
    return end - at >= 4 && !memcmp(at, "true", 4);
}

static void model_in(const char *body, size_t len, char model[MAX_MODEL_ID]) {
    strcpy(model, "mock");
    const char *at = memmem(body, len, "\"model\"", 7), *end = body + len;
    if (!at) return;
    for (at += 7; at < end && (isspace((unsigned char)*at) || *at == ':'); at++) {}
    if (at == end || *at++ != '"') return;
    const char *close = memchr(at, '"', (size_t)(end - at));
    if (!close || close - at >= MAX_MODEL_ID) return;
    memcpy(model, at, (size_t)(close - at));
    model[close - at] = 0;
}

static void answer_once(struct conn *c, const char *status, const struct bytes *body) {
    c->once.wire.len = 0;
    c->once.steps = 0;
    append_body(&c->once.wire, status, body);
    stop_here(&c->once);
    c->script = &c->once;
}

static void answer(struct conn *c, char *head, const char *body, size_t body_len) {
    c->step = 0;
    c->sent = 0;
    c->due_ms = 0;
    c->gap_ms = 0;
    c->last = strcasestr(head, "\r\nconnection: close") != NULL;
    char *line_end = strstr(head, "\r\n");
    *line_end = 0;
    struct bytes text = {0};
    if (!strncmp(head, "POST ", 5) && strstr(head, "/chat/completions")) {
        requests_seen++;
        char model[MAX_MODEL_ID];
        model_in(body, body_len, model);
        struct profile *p = profile_of(model);
        bool stream = says_true(body, body_len, "\"stream\"");
        bool usage = stream && says_true(body, body_len, "\"include_usage\"");
        c->script = !stream ? &p->unary : usage ? &p->stream_with_usage : &p->stream;
        c->gap_ms = stream ? p->gap_ms : 0;
        if (p->delay_ms) alarm_push(c, now_ms() + p->delay_ms);
    } else if (!strncmp(head, "GET ", 4) && strstr(head, "/models")) {
        append(&text, "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\",\"created\":1767225600,"
                      "\"owned_by\":\"bench\"}]}");
        answer_once(c, "200 OK", &text);
    } else if (!strncmp(head, "GET /stats", 10)) {
        append(&text, "{\"requests\":%llu,\"cancelled\":%llu}", (unsigned long long)requests_seen,
               (unsigned long long)cancelled);
        answer_once(c, "200 OK", &text);
    } else {
        append(&text, "{\"error\":{\"message\":\"the mock has no such path\",\"type\":\"invalid_request_error\","
                      "\"param\":null,\"code\":null}}");
        answer_once(c, "404 Not Found", &text);
    }
    free(text.at);
}

/* Takes one whole request off the front of the input. False when there is none yet. */
static bool take_request(struct conn *c) {
    reserve(&c->in, 1);
    c->in.at[c->in.len] = 0;
    char *end = memmem(c->in.at, c->in.len, "\r\n\r\n", 4);
    if (!end) return false;
    end[2] = 0;
    char *length = strcasestr(c->in.at, "\r\ncontent-length:");
    if (!length && strcasestr(c->in.at, "\r\ntransfer-encoding:")) {
        answer_once(c, "411 Length Required", &(struct bytes){.at = "{}", .len = 2});
        c->last = true;
        return true;
    }
    size_t body_len = length ? strtoul(length + 17, NULL, 10) : 0, head_len = (size_t)(end - c->in.at) + 4;
    end[2] = '\r';
    if (c->in.len < head_len + body_len) return false;
    end[2] = 0;
    answer(c, c->in.at, c->in.at + head_len, body_len);
    c->in.len -= head_len + body_len;
    memmove(c->in.at, c->in.at + head_len + body_len, c->in.len);
    return true;
}

/* Writes what the script allows now, then the next request's answer, until something must be waited for. */
static void go_on(struct conn *c) {
    while (c->fd >= 0 && !c->due_ms && (c->script || take_request(c))) {
        if (c->due_ms) return;
        size_t stop = c->script->stops[c->step];
        ssize_t n = send(c->fd, c->script->wire.at + c->sent, stop - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN) return hang_up(c);
        if (n > 0) c->sent += (size_t)n;
        if (c->sent < stop) return watch(c, true);
        if (++c->step < c->script->steps) {
            if (!c->gap_ms) return watch(c, true); /* the other connections take their turn first */
            watch(c, false);
            alarm_push(c, now_ms() + c->gap_ms);
            continue;
        }
        watch(c, false);
        c->script = NULL;
        if (c->last) return hang_up(c);
    }
}

static void hear(struct conn *c) {
    reserve(&c->in, 16384);
    ssize_t n = recv(c->fd, c->in.at + c->in.len, c->in.room - c->in.len - 1, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0 || c->in.len + (size_t)n > MAX_REQUEST) return hang_up(c);
    c->in.len += (size_t)n;
    if (!c->script) go_on(c);
}

static void welcome(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        if ((size_t)fd >= n_conn_of_fd) {
            size_t room = (size_t)fd * 2 + 1024;
            if (!(conn_of_fd = realloc(conn_of_fd, room * sizeof *conn_of_fd))) die("realloc");
            memset(conn_of_fd + n_conn_of_fd, 0, (room - n_conn_of_fd) * sizeof *conn_of_fd);
            n_conn_of_fd = room;
        }
        struct conn *c = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        conn_of_fd[fd] = c;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

static void ring_alarms(void) {
    for (int64_t now = now_ms(); n_alarms && alarms[0].due_ms <= now;) {
        struct alarm a = alarm_pop();
        struct conn *c = conn_of_fd[a.fd];
        if (!c || c->due_ms != a.due_ms) continue;
        c->due_ms = 0;
        go_on(c);
    }
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (struct sockaddr *)&here, sizeof here) || listen(fd, 4096)) die("listen");
    getsockname(fd, (struct sockaddr *)&here, &(socklen_t){sizeof here});
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    int listener = listen_on(argc > 1 ? atoi(argv[1]) : 0);
    if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll_create1");
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, happened[EVENTS];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int64_t wait = n_alarms ? alarms[0].due_ms - now_ms() : -1;
        int n = epoll_wait(epoll_fd, happened, EVENTS, n_alarms && wait < 0 ? 0 : (int)wait);
        for (int i = 0; i < n; i++) {
            struct conn *c = happened[i].data.ptr;
            if (!c) welcome(listener);
            if (c && c->fd >= 0 && happened[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) hear(c);
            if (c && c->fd >= 0 && happened[i].events & EPOLLOUT) go_on(c);
        }
        ring_alarms();
        bury_the_dead();
    }
}

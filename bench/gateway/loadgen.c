/*
 * loadgen: sends chat completions at a gateway over keep-alive connections, checks every answer, prints one JSON object.
 *
 *   loadgen --port P --body FILE [options]
 *
 *   --rate R          open loop: R requests/s on a fixed schedule; a latency starts at the time the request was *due*,
 *                     so a stalled gateway is charged for the requests that it kept waiting (no coordinated omission).
 *                     Without it, closed loop: each connection sends its next request when its answer is complete
 *   --connections C   (64)     --duration S   measured seconds (5)     --warmup S   unmeasured seconds before (1)
 *   --requests N      stop after N requests, if that comes before the duration's end
 *   --stream-body F --stream-every K    every K-th request is the streamed one (1 = all)
 *   --chunks N        content chunks that a streamed answer must have (100)
 *   --ramp S          the connections open evenly over S seconds, so that they do not march in step (0)
 *   --quick-ack 1     acknowledge at once what comes in: without it, a gateway that does not set TCP_NODELAY waits up to
 *                     40 ms for the kernel's delayed ACK between an answer's head and its first event (0)
 *   --host, --path, --key, --timeout S (30)
 *
 * A unary answer is good when it is a 200 whose body is whole, holds "content" and ends with `}`; a stream when it is a
 * 200 with at least N content events and `data: [DONE]` as its last event. Everything else is counted by kind, from the
 * first request on, warm-up included. Requests still out at the end get two seconds more; what remains is
 * `unfinished`, and its age so far counts as its latency.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 512, READ_ROOM = 1 << 18, MAX_TEXT = 1 << 22, MAX_STATUS = 600 };
static const int64_t SECOND = 1000000000, DRAIN = 2 * SECOND, RECONNECT_PAUSE = SECOND / 100;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(2);
}

/* ---------------------------------------------------------------- what was asked for */

static struct {
    const char *host, *path, *key, *body, *stream_body;
    int port, connections, chunks, stream_every, quick_ack;
    double rate, duration_s, warmup_s, ramp_s, timeout_s;
    long requests;
} want = {.host = "127.0.0.1", .path = "/v1/chat/completions", .connections = 64, .chunks = 100,
          .duration_s = 5, .warmup_s = 1, .timeout_s = 30};

struct bytes {
    char *at;
    size_t len, room;
};

static void append(struct bytes *b, const void *from, size_t n) {
    if (b->len + n + 1 > b->room) {
        b->room = (b->len + n + 1) * 2;
        if (!(b->at = realloc(b->at, b->room))) die("realloc");
    }
    memcpy(b->at + b->len, from, n);
    b->len += n;
    b->at[b->len] = 0;
}

static struct bytes request, stream_request;

static struct bytes read_request(const char *file) {
    struct bytes body = {0}, whole = {0};
    char part[4096], head[2048];
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) die(file);
    for (ssize_t n; (n = read(fd, part, sizeof part)) > 0;) append(&body, part, (size_t)n);
    close(fd);
    int n = snprintf(head, sizeof head,
                     "POST %s HTTP/1.1\r\nHost: %s:%d\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
                     "User-Agent: isthmus-loadgen/1\r\nAuthorization: Bearer %s\r\nContent-Length: %zu\r\n\r\n",
                     want.path, want.host, want.port, want.key ? want.key : "none", body.len);
    append(&whole, head, (size_t)n);
    append(&whole, body.at, body.len);
    free(body.at);
    return whole;
}

/* ---------------------------------------------------------------- what was seen */

struct series {
    int64_t *ns;
    size_t n, room;
};

static void note(struct series *s, int64_t ns) {
    if (s->n == s->room) {
        s->room = s->room ? s->room * 2 : 1 << 16;
        if (!(s->ns = realloc(s->ns, s->room * sizeof *s->ns))) die("realloc");
    }
    s->ns[s->n++] = ns;
}

enum fault { NO_CONNECTION, CUT_OFF, BAD_STATUS, BAD_FRAMING, BAD_BODY, SHORT_STREAM, TIMED_OUT, FAULTS };
static const char *const FAULT_NAMES[] = {"no_connection", "cut_off", "bad_status", "bad_framing", "bad_body", "short_stream", "timed_out"};

static struct series latency, first_chunk;
static long faults[FAULTS], statuses[MAX_STATUS], sent, completed, completed_in_window, chunks, chunks_in_window, unfinished;
static int64_t bytes_in, window_start, window_end;
static char sample_fault[400];

static bool in_window(int64_t t) { return t >= window_start && t < window_end; }

/* ---------------------------------------------------------------- connections and answers */

enum state { CLOSED, CONNECTING, IDLE, SENDING, HEAD, BY_LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILERS };

struct conn {
    int fd;
    enum state state;
    bool streamed, wants_out, sse, done_seen, must_close;
    size_t out_pos, remaining;
    int status, content_events;
    int64_t due, retry_at;  /* when the current request was due; before when the connection is not opened (again) */
    bool first_seen;
    struct bytes text;      /* the head; then the unary body, or the stream's unfinished line */
};

static struct conn *conns;
static struct conn **idle; /* last in, first out: a low rate runs on few warm connections */
static int n_idle, epoll_fd;

static void fail(struct conn *c, enum fault kind) {
    if (!faults[kind]++ && !*sample_fault) {
        int n = snprintf(sample_fault, sizeof sample_fault, "%s: ", FAULT_NAMES[kind]);
        for (size_t i = 0; i < c->text.len && n < (int)sizeof sample_fault - 1; i++) {
            char ch = c->text.at[i];
            sample_fault[n++] = ch < ' ' || ch > '~' || ch == '"' || ch == '\\' ? '.' : ch;
        }
        sample_fault[n] = 0;
    }
}

static void forget_idle(struct conn *c) {
    for (int i = 0; i < n_idle; i++)
        if (idle[i] == c) idle[i] = idle[--n_idle];
}

static void hang_up(struct conn *c) {
    if (c->state == IDLE) forget_idle(c);
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
}

static void lose(struct conn *c, enum fault kind) {
    fail(c, kind);
    hang_up(c);
    c->retry_at = now_ns() + RECONNECT_PAUSE;
}

static void watch(struct conn *c, bool out) {
    if (c->wants_out == out) return;
    c->wants_out = out;
    struct epoll_event e = {.events = EPOLLIN | (out ? (uint32_t)EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void rest(struct conn *c) {
    c->state = IDLE;
    idle[n_idle++] = c;
}

static void connect_to_gateway(struct conn *c) {
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)want.port)};
    inet_pton(AF_INET, want.host, &there.sin_addr);
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
    c->wants_out = true;
    c->state = CONNECTING;
    if (connect(c->fd, (struct sockaddr *)&there, sizeof there) && errno != EINPROGRESS) lose(c, NO_CONNECTION);
}

static void go_on_sending(struct conn *c) {
    const struct bytes *r = c->streamed ? &stream_request : &request;
    ssize_t n = send(c->fd, r->at + c->out_pos, r->len - c->out_pos, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) return lose(c, CUT_OFF);
    if (n > 0) c->out_pos += (size_t)n;
    if (c->out_pos == r->len) c->state = HEAD;
    watch(c, c->state == SENDING);
}

static void start_request(struct conn *c, int64_t due) {
    sent++;
    c->streamed = want.stream_every && sent % want.stream_every == 0;
    c->state = SENDING;
    c->due = due;
    c->out_pos = 0;
    c->text.len = 0;
    c->content_events = 0;
    c->done_seen = c->first_seen = false;
    go_on_sending(c);
}

/* One line of an event stream. The role-only event that opens a stream has empty content and does not count. */
static void hear_line(struct conn *c, const char *line, size_t len, int64_t now) {
    if (len < 6 || memcmp(line, "data:", 5)) return;
    const char *data = line + 5 + (line[5] == ' ');
    size_t n = len - (size_t)(data - line);
    c->done_seen = n >= 6 && !memcmp(data, "[DONE]", 6);
    const char *content = memmem(data, n, "\"content\":", 10);
    if (!content) return;
    content += 10 + (content[10] == ' ');
    if (content + 1 >= data + n || content[0] != '"' || content[1] == '"') return;
    c->content_events++;
    chunks++;
    if (in_window(now)) chunks_in_window++;
    if (!c->first_seen && in_window(c->due)) note(&first_chunk, now - c->due);
    c->first_seen = true;
}

static void hear_body(struct conn *c, const char *at, size_t len, int64_t now) {
    if (!c->sse) {
        if (c->text.len + len <= MAX_TEXT) append(&c->text, at, len);
        return;
    }
    for (const char *newline; len && (newline = memchr(at, '\n', len));) {
        size_t n = (size_t)(newline - at);
        if (c->text.len) {
            append(&c->text, at, n);
            hear_line(c, c->text.at, c->text.len, now);
            c->text.len = 0;
        } else hear_line(c, at, n, now);
        at += n + 1;
        len -= n + 1;
    }
    if (len && c->text.len + len <= MAX_TEXT) append(&c->text, at, len);
}

static bool unary_is_good(const struct bytes *body) {
    size_t n = body->len;
    while (n && strchr(" \r\n", body->at[n - 1])) n--;
    return n && body->at[0] == '{' && body->at[n - 1] == '}' && memmem(body->at, n, "\"content\"", 9);
}

static void finish(struct conn *c, int64_t now) {
    statuses[c->status]++;
    if (c->status != 200) fail(c, BAD_STATUS);
    else if (c->streamed && (!c->done_seen || c->content_events < want.chunks)) fail(c, SHORT_STREAM);
    else if (!c->streamed && !unary_is_good(&c->text)) fail(c, BAD_BODY);
    else {
        completed++;
        if (in_window(now)) completed_in_window++;
        if (in_window(c->due)) note(&latency, now - c->due);
    }
    if (c->must_close) hang_up(c);
    else rest(c);
}

/* Reads the head when it is whole. False when it is not one. */
static bool read_head(struct conn *c) {
    const char *head = c->text.at;
    if (strncmp(head, "HTTP/1.1 ", 9)) return false;
    c->status = atoi(head + 9);
    if (c->status < 100 || c->status >= MAX_STATUS) return false;
    c->must_close = strcasestr(head, "\r\nconnection: close") != NULL;
    c->sse = strcasestr(head, "\r\ncontent-type: text/event-stream") != NULL;
    const char *length = strcasestr(head, "\r\ncontent-length:");
    if (length) {
        c->remaining = strtoul(length + 17, NULL, 10);
        c->state = BY_LENGTH;
    } else if (strcasestr(head, "\r\ntransfer-encoding: chunked")) {
        c->remaining = 0;
        c->state = CHUNK_SIZE;
    } else return false;
    return true;
}

static int hex(char ch) {
    return ch >= '0' && ch <= '9' ? ch - '0' : (ch | 32) >= 'a' && (ch | 32) <= 'f' ? (ch | 32) - 'a' + 10 : -1;
}

/* Feeds what was read to the answer. TRAILERS counts in `remaining` the bytes of the line that it is on. */
static void hear(struct conn *c, const char *at, size_t len, int64_t now) {
    while (len || (c->state == BY_LENGTH && !c->remaining)) {
        switch (c->state) {
        case HEAD: {
            size_t before = c->text.len;
            append(&c->text, at, len);
            char *end = memmem(c->text.at, c->text.len, "\r\n\r\n", 4);
            if (!end) return;
            size_t head_len = (size_t)(end - c->text.at) + 4;
            end[2] = 0;
            if (!read_head(c)) return lose(c, BAD_FRAMING);
            c->text.len = 0;
            at += head_len - before;
            len -= head_len - before;
            break;
        }
        case BY_LENGTH:
        case CHUNK_DATA: {
            size_t n = len < c->remaining ? len : c->remaining;
            hear_body(c, at, n, now);
            at += n;
            len -= n;
            if (c->remaining -= n) return;
            if (c->state == BY_LENGTH) return len ? lose(c, BAD_FRAMING) : finish(c, now);
            c->state = CHUNK_END;
            break;
        }
        case CHUNK_END:
            if (*at == '\n') c->state = CHUNK_SIZE;
            at++, len--;
            break;
        case CHUNK_SIZE:
            if (*at == '\n') {
                c->state = c->remaining ? CHUNK_DATA : TRAILERS;
            } else if (*at != '\r') {
                int digit = hex(*at);
                if (digit < 0 || c->remaining > SIZE_MAX / 32) return lose(c, BAD_FRAMING);
                c->remaining = c->remaining * 16 + (size_t)digit;
            }
            at++, len--;
            break;
        case TRAILERS:
            len--;
            if (*at == '\n') {
                if (!c->remaining) return len ? lose(c, BAD_FRAMING) : finish(c, now);
                c->remaining = 0;
            } else if (*at != '\r') c->remaining++;
            at++;
            break;
        default:
            return lose(c, BAD_FRAMING);
        }
    }
}

static void read_from(struct conn *c) {
    static char room[READ_ROOM];
    for (;;) {
        ssize_t n = recv(c->fd, room, sizeof room, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0 && c->state == IDLE) return hang_up(c); /* a server may close a connection that rests */
        if (n <= 0) return lose(c, CUT_OFF);
        int64_t now = now_ns();
        if (want.quick_ack) setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &(int){1}, sizeof(int));
        if (in_window(now)) bytes_in += n;
        hear(c, room, (size_t)n, now);
        if (c->state <= IDLE || n < (ssize_t)sizeof room) return;
    }
}

static void attend(struct conn *c, uint32_t events) {
    if (c->state == CONNECTING && events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        int error = 0;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error});
        if (error) return lose(c, NO_CONNECTION);
        watch(c, false);
        return rest(c);
    }
    if (c->state == SENDING && events & EPOLLOUT) go_on_sending(c);
    if (c->state >= IDLE && events & (EPOLLIN | EPOLLERR | EPOLLHUP)) read_from(c);
}

/* ---------------------------------------------------------------- the run */

static int busy(void) {
    int n = 0;
    for (int i = 0; i < want.connections; i++) n += conns[i].state >= SENDING;
    return n;
}

static void mend(int64_t now) {
    int64_t timeout = (int64_t)(want.timeout_s * (double)SECOND);
    for (int i = 0; i < want.connections; i++) {
        struct conn *c = &conns[i];
        if (c->state >= SENDING && now - c->due > timeout) lose(c, TIMED_OUT);
        if (c->state == CLOSED && now >= c->retry_at) connect_to_gateway(c);
    }
}

static void run(void) {
    struct epoll_event happened[EVENTS];
    int64_t start = now_ns(), next_mend = start;
    window_start = start + (int64_t)(want.warmup_s * (double)SECOND);
    window_end = window_start + (int64_t)(want.duration_s * (double)SECOND);
    int64_t gap = want.rate > 0 ? (int64_t)((double)SECOND / want.rate) : 0, due = start + SECOND / 10;
    for (;;) {
        int64_t now = now_ns();
        bool sending = now < window_end && (!want.requests || sent < want.requests);
        if (now > window_end + DRAIN || (!sending && !busy())) break;
        if (now >= next_mend) {
            mend(now);
            next_mend = now + RECONNECT_PAUSE;
        }
        while (sending && n_idle && (!gap || due <= now)) {
            start_request(idle[--n_idle], gap ? due : now);
            due += gap;
            sending = !want.requests || sent < want.requests;
        }
        int64_t until = next_mend;
        if (gap && sending && n_idle && due < until) until = due;
        int64_t wait = until > now ? until - now : 0;
        int n = epoll_pwait2(epoll_fd, happened, EVENTS, &(struct timespec){.tv_sec = 0, .tv_nsec = wait}, NULL);
        for (int i = 0; i < n; i++) attend(happened[i].data.ptr, happened[i].events);
    }
    int64_t end = now_ns();
    if (end < window_end) window_end = end;
    if (window_start > window_end) window_start = window_end;
    for (int i = 0; i < want.connections; i++) {
        if (conns[i].state < SENDING) continue;
        unfinished++;
        if (in_window(conns[i].due)) note(&latency, end - conns[i].due);
    }
    if (gap) /* requests that were due and never found a free connection */
        for (; due < window_end && (!want.requests || sent + unfinished < want.requests); due += gap, unfinished++)
            if (in_window(due)) note(&latency, end - due);
}

/* ---------------------------------------------------------------- the report */

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_series(const char *name, struct series *s) {
    printf(",\"%s\":", name);
    if (!s->n) {
        printf("null");
        return;
    }
    qsort(s->ns, s->n, sizeof *s->ns, by_size);
    static const struct {
        const char *name;
        double share;
    } marks[] = {{"p50", .5}, {"p90", .9}, {"p99", .99}, {"p999", .999}, {"max", 1}};
    printf("{\"n\":%zu", s->n);
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        printf(",\"%s\":%.4f", marks[i].name, (double)s->ns[(size_t)(marks[i].share * (double)(s->n - 1))] / 1e6);
    printf("}");
}

static void report(void) {
    double seconds = (double)(window_end - window_start) / 1e9, per_second = seconds > 0 ? 1 / seconds : 0;
    long total = 0;
    for (int i = 0; i < FAULTS; i++) total += faults[i];
    printf("{\"mode\":\"%s\",\"connections\":%d,\"measured_s\":%.3f,\"sent\":%ld,\"completed\":%ld,\"measured\":%ld,"
           "\"rps\":%.2f,\"chunks\":%ld,\"chunks_per_s\":%.1f,\"bytes_per_s\":%.0f,\"unfinished\":%ld,\"errors\":%ld",
           want.rate > 0 ? "open" : "closed", want.connections, seconds, sent, completed, completed_in_window,
           (double)completed_in_window * per_second, chunks, (double)chunks_in_window * per_second,
           (double)bytes_in * per_second, unfinished, total);
    printf(",\"faults\":{");
    for (int i = 0, first = 1; i < FAULTS; i++)
        if (faults[i]) printf("%s\"%s\":%ld", first ? "" : ",", FAULT_NAMES[i], faults[i]), first = 0;
    printf("},\"statuses\":{");
    for (int i = 0, first = 1; i < MAX_STATUS; i++)
        if (statuses[i]) printf("%s\"%d\":%ld", first ? "" : ",", i, statuses[i]), first = 0;
    printf("},\"sample_fault\":\"%s\"", sample_fault);
    print_series("latency_ms", &latency);
    print_series("first_chunk_ms", &first_chunk);
    printf("}\n");
}

static void read_arguments(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--host")) want.host = value;
        else if (!strcmp(name, "--port")) want.port = atoi(value);
        else if (!strcmp(name, "--path")) want.path = value;
        else if (!strcmp(name, "--key")) want.key = value;
        else if (!strcmp(name, "--body")) want.body = value;
        else if (!strcmp(name, "--stream-body")) want.stream_body = value;
        else if (!strcmp(name, "--stream-every")) want.stream_every = atoi(value);
        else if (!strcmp(name, "--chunks")) want.chunks = atoi(value);
        else if (!strcmp(name, "--connections")) want.connections = atoi(value);
        else if (!strcmp(name, "--requests")) want.requests = atol(value);
        else if (!strcmp(name, "--rate")) want.rate = atof(value);
        else if (!strcmp(name, "--duration")) want.duration_s = atof(value);
        else if (!strcmp(name, "--warmup")) want.warmup_s = atof(value);
        else if (!strcmp(name, "--ramp")) want.ramp_s = atof(value);
        else if (!strcmp(name, "--quick-ack")) want.quick_ack = atoi(value);
        else if (!strcmp(name, "--timeout")) want.timeout_s = atof(value);
        else {
            fprintf(stderr, "loadgen: no option %s; the top of loadgen.c lists them\n", name);
            exit(2);
        }
    }
    bool unary = want.stream_every != 1, streams = want.stream_every > 0;
    if (argc % 2 == 0 || !want.port || want.connections < 1 || (unary && !want.body) || (streams && !want.stream_body)) {
        fprintf(stderr, "loadgen: --port and --body are needed, --stream-body too where --stream-every is given\n");
        exit(2);
    }
    if (unary) request = read_request(want.body);
    if (streams) stream_request = read_request(want.stream_body);
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    read_arguments(argc, argv);
    conns = calloc((size_t)want.connections, sizeof *conns);
    idle = calloc((size_t)want.connections, sizeof *idle);
    if (!conns || !idle || (epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0) die("start");
    int64_t start = now_ns();
    for (int i = 0; i < want.connections; i++) {
        conns[i].fd = -1;
        conns[i].retry_at = start + (int64_t)(want.ramp_s * (double)SECOND * i / want.connections);
    }
    run();
    report();
    return 0;
}

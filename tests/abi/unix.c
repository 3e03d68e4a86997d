#include "abi.h"
#include <stddef.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

static struct sockaddr_un address;
static socklen_t named(const char *path) {
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, path);
    return offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1;
}
static socklen_t abstract(const char *name) {
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path + 1, name, strlen(name));
    return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
}
static void who(const char *what, int (*ask)(int, struct sockaddr *, socklen_t *), int fd) {
    struct sockaddr_un name;
    socklen_t size = sizeof name;
    memset(&name, 'z', sizeof name);
    int result = ask(fd, (void *)&name, &size);
    if (result < 0) {
        printf("  %s %s\n", what, strerrorname_np(errno));
        return;
    }
    printf("  %s family %d size %d", what, name.sun_family, size);
    for (unsigned i = 2; i < size; i++)
        printf("%c", name.sun_path[i - 2] ? name.sun_path[i - 2] : '@');
    printf("\n");
}

static ssize_t pass(int to, const void *data, size_t size, const int *fds, int count, int creds) {
    char control[256] = {0};
    struct iovec v = {(void *)data, size};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control};
    size_t used = 0;
    if (count) {
        struct cmsghdr *c = (void *)control;
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(4 * count);
        memcpy(CMSG_DATA(c), fds, 4 * count);
        used += CMSG_SPACE(4 * count);
    }
    if (creds) {
        struct cmsghdr *c = (void *)(control + used);
        struct ucred u = {creds == 2 ? 1 : getpid(), getuid(), getgid()};
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_CREDENTIALS;
        c->cmsg_len = CMSG_LEN(sizeof u);
        memcpy(CMSG_DATA(c), &u, sizeof u);
        used += CMSG_SPACE(sizeof u);
    }
    m.msg_controllen = used;
    return sendmsg(to, &m, MSG_NOSIGNAL);
}

static ssize_t take(int from, size_t room, int flags, int *fds) {
    char data[64], control[256];
    struct iovec v = {data, sizeof data};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room};
    ssize_t got = recvmsg(from, &m, flags);
    if (got < 0)
        return got;
    printf("  %.*s flags %x control %zu", (int)got, data, m.msg_flags, (size_t)m.msg_controllen);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        printf(" [%d %d %zu", c->cmsg_level, c->cmsg_type, (size_t)c->cmsg_len);
        if (c->cmsg_type == SCM_RIGHTS) {
            int n = (c->cmsg_len - CMSG_LEN(0)) / 4;
            memcpy(fds, CMSG_DATA(c), 4 * n);
            for (int i = 0; i < n; i++)
                printf(" cloexec %d flags %x", fcntl(fds[i], F_GETFD), fcntl(fds[i], F_GETFL));
        } else if (c->cmsg_type == SCM_CREDENTIALS) {
            struct ucred u;
            memcpy(&u, CMSG_DATA(c), sizeof u);
            printf(" own %d %d %d", u.pid == getpid(), u.uid == getuid(), u.gid == getgid());
        }
        printf("]");
    }
    printf("\n");
    return got;
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    T(listen(server, 1));
    socklen_t size = named("the.socket");
    T(connect(client, (void *)&address, size));
    T(bind(server, (void *)&address, size));
    T(bind(server, (void *)&address, size));
    T(bind(client, (void *)&address, size));
    struct stat st;
    T(stat("the.socket", &st));
    SHOW("%o", st.st_mode);
    T(open("the.socket", O_RDONLY));
    T(connect(client, (void *)&address, size));
    T(listen(server, 5));
    who("server", getsockname, server);
    who("client", getsockname, client);
    who("peer", getpeername, client);
    T(connect(client, (void *)&address, size));
    T(connect(client, (void *)&address, size));
    who("peer", getpeername, client);
    struct sockaddr_un from;
    socklen_t room = sizeof from;
    int accepted = accept4(server, (void *)&from, &room, SOCK_CLOEXEC);
    SHOW("accepted %d family %d room %d cloexec %d", accepted >= 0, from.sun_family, room, fcntl(accepted, F_GETFD));
    who("accepted", getsockname, accepted);
    who("its peer", getpeername, accepted);
    T(accept4(server, 0, 0, 4));
    struct ucred u;
    room = sizeof u;
    T(getsockopt(accepted, SOL_SOCKET, SO_PEERCRED, &u, &room));
    SHOW("%d %d", u.pid == getpid(), u.uid == getuid());

    int pipes[2], fds[8] = {0};
    pipe2(pipes, O_NONBLOCK);
    int both[2] = {pipes[0], pipes[1]};
    T(pass(client, "two", 3, both, 2, 0));
    T(take(accepted, 256, MSG_CMSG_CLOEXEC, fds));
    T(write(pipes[1], "hello", 5));
    char buffer[64];
    T(read(fds[0], buffer, 64));
    T(read(fds[0], buffer, 64));
    close(fds[0]);
    close(fds[1]);
    T(pass(client, "cut", 3, both, 2, 0));
    T(take(accepted, CMSG_LEN(4), 0, fds));
    close(fds[0]);
    T(pass(client, "none", 4, both, 2, 0));
    T(take(accepted, 0, 0, fds));
    int bad = 999;
    T(pass(client, "bad", 3, &bad, 1, 0));
    T(pass(client, "pid", 3, 0, 0, 1));
    T(take(accepted, 256, 0, fds));
    int one = 1;
    T(setsockopt(accepted, SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
    T(pass(client, "pid", 3, 0, 0, 1));
    T(take(accepted, 256, 0, fds));
    T(pass(client, "all", 3, both, 2, 1));
    T(take(accepted, 256, 0, fds));
    int file = open("file", O_CREAT | O_RDWR | O_APPEND, 0640);
    T(pass(client, "file", 4, &file, 1, 0));
    T(take(accepted, 256, 0, fds));
    T(write(fds[0], "text", 4));
    T(lseek(file, 0, SEEK_CUR));

    T(send(client, "abcdef", 6, 0));
    T(recv(accepted, buffer, 3, MSG_PEEK));
    T(recv(accepted, buffer, 64, MSG_DONTWAIT));
    T(recv(accepted, buffer, 64, MSG_DONTWAIT));
    struct timeval limit = {0, 30000};
    T(setsockopt(accepted, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    T(recv(accepted, buffer, 64, 0));
    T(read(accepted, buffer, 64));
    T(sendto(client, "x", 1, 0, (void *)&address, size));
    T(shutdown(client, 7));
    T(shutdown(client, SHUT_WR));
    T(recv(accepted, buffer, 64, 0));
    T(send(client, "x", 1, 0));
    close(accepted);
    T(recv(client, buffer, 64, 0));
    T(unlink("the.socket"));
    T(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, size));

    int a = socket(AF_UNIX, SOCK_DGRAM, 0), b = socket(AF_UNIX, SOCK_DGRAM, 0);
    size = named("a.socket");
    T(bind(a, (void *)&address, size));
    size = named("b.socket");
    T(bind(b, (void *)&address, size));
    T(sendto(a, "from a", 6, 0, (void *)&address, size));
    room = sizeof from;
    T(recvfrom(b, buffer, 64, 0, (void *)&from, &room));
    SHOW("%.*s from %s %d", 6, buffer, from.sun_path, room);
    T(sendto(b, "back", 4, 0, (void *)&from, room));
    T(recv(a, buffer, 2, MSG_TRUNC));
    size = named("c.socket");
    T(sendto(a, "x", 1, 0, (void *)&address, size));
    size = named("file");
    T(sendto(a, "x", 1, 0, (void *)&address, size));
    size = named("b.socket");
    T(connect(a, (void *)&address, size));
    who("a's peer", getpeername, a);
    struct mmsghdr many[3];
    struct iovec v[3] = {{"1", 1}, {"22", 2}, {"333", 3}};
    memset(many, 0, sizeof many);
    for (int i = 0; i < 3; i++) {
        many[i].msg_hdr.msg_iov = &v[i];
        many[i].msg_hdr.msg_iovlen = 1;
    }
    T(sendmmsg(a, many, 3, 0));
    SHOW("%d %d %d", many[0].msg_len, many[1].msg_len, many[2].msg_len);
    char in[3][8];
    for (int i = 0; i < 3; i++)
        v[i] = (struct iovec){in[i], 8};
    T(recvmmsg(b, many, 3, MSG_WAITFORONE, 0));
    SHOW("%d %d %d", many[0].msg_len, many[1].msg_len, many[2].msg_len);
    T(recvmmsg(b, many, 3, MSG_DONTWAIT, 0));
    unlink("a.socket");
    unlink("b.socket");
    unlink("file");

    int x = socket(AF_UNIX, SOCK_SEQPACKET, 0), y = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    size = abstract("vm-test");
    T(bind(x, (void *)&address, size));
    who("x", getsockname, x);
    T(listen(x, 1));
    T(connect(y, (void *)&address, size));
    who("y's peer", getpeername, y);
    size = abstract("vm-test-nobody");
    T(connect(socket(AF_UNIX, SOCK_SEQPACKET, 0), (void *)&address, size));
    int z = socket(AF_UNIX, SOCK_DGRAM, 0);
    T(bind(z, (void *)&address, 2));
    room = sizeof from;
    getsockname(z, (void *)&from, &room);
    SHOW("%d", room);

    int pair[2];
    T(socketpair(AF_INET, SOCK_STREAM, 0, pair));
    T(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair));
    T(send(pair[0], "packet", 6, MSG_EOR));
    T(send(pair[0], "", 0, 0));
    T(recv(pair[1], buffer, 3, 0));
    T(recv(pair[1], buffer, 3, 0));
    T(recv(pair[1], buffer, 3, 0));
    int kind;
    room = sizeof kind;
    T(getsockopt(pair[0], SOL_SOCKET, SO_TYPE, &kind, &room));
    SHOW("%d %d", kind, room);
    T(socket(AF_UNIX, 9, 0));
    T(socket(AF_UNIX, SOCK_STREAM, 5));
    T(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    T(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    T(send(pair[1], "12", 2, 0));
    T(recv(pair[0], buffer, 8, MSG_WAITALL));
    T(recv(1, buffer, 1, 0));
    T(recv(77, buffer, 1, 0));
    return 0;
}

/* What sockets of the Internet refuse; on the loopback interface. */
#include "abi.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <arpa/inet.h>
#define S(name, ...) T(syscall(SYS_##name, __VA_ARGS__))
#define BAD ((void *)0x10)
static char buffer[4096];
int main(void) {
    struct sockaddr_in a = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_in6 six = {AF_INET6};
    int tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0), on = 1, len = 4, big = 99;
    socklen_t negative = -1;
    S(socket, AF_INET, SOCK_STREAM, IPPROTO_UDP);
    S(socket, AF_INET, SOCK_STREAM, 256);
    S(socket, AF_INET, SOCK_STREAM, 300);
    S(socket, AF_INET, SOCK_SEQPACKET, 0);
    S(socket, AF_INET, SOCK_DGRAM, IPPROTO_TCP);
    S(socket, AF_INET6, 99, 0);
    S(socket, -1L, SOCK_STREAM, 0);
    S(socket, 46, SOCK_STREAM, 0);
    S(socketpair, AF_INET, SOCK_STREAM, 0, buffer);
    S(bind, tcp, &a, 8);
    S(bind, tcp, &a, 15);
    S(bind, tcp, &six, sizeof six);
    a.sin_addr.s_addr = inet_addr("192.0.2.1");
    S(bind, tcp, &a, sizeof a);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK), a.sin_port = htons(1);
    S(connect, tcp, &a, 8);
    S(connect, tcp, &a, sizeof a);
    S(connect, tcp, &a, sizeof a);
    /* The port of one that listens: what failed can be connected after all. */
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in there = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
    S(bind, listener, &there, sizeof there);
    S(listen, listener, 1);
    socklen_t size = sizeof there;
    S(getsockname, listener, &there, &size);
    S(connect, tcp, &there, sizeof there);
    S(connect, tcp, &there, sizeof there);
    tcp = socket(AF_INET, SOCK_STREAM, 0);
    S(connect, tcp, &a, sizeof a);
    S(connect, udp, &a, 1);
    S(connect, udp, &six, sizeof six);
    S(listen, udp, 1);
    S(accept4, tcp, 0, 0, 0);
    S(accept4, udp, 0, 0, 0);
    S(sendto, udp, buffer, 1, 0, 0, 0);
    S(sendto, udp, buffer, 1, 0, &a, 8);
    S(sendto, udp, buffer, 1, 0, &six, sizeof six);
    S(sendto, udp, buffer, 1, MSG_OOB, &a, sizeof a);
    S(sendto, udp, buffer, 70000, 0, &a, sizeof a);
    S(sendto, tcp, buffer, 1, MSG_NOSIGNAL, 0, 0);
    S(recvfrom, tcp, buffer, 1, 0, 0, 0);
    S(recvfrom, udp, buffer, 1, MSG_DONTWAIT, 0, 0);
    S(shutdown, tcp, 2);
    S(shutdown, udp, 2);
    S(shutdown, tcp, 9);
    S(getpeername, tcp, buffer, &len);
    S(getsockopt, tcp, IPPROTO_TCP, 999, buffer, &len);
    S(getsockopt, tcp, IPPROTO_IP, 999, buffer, &len);
    S(getsockopt, tcp, IPPROTO_IPV6, IPV6_V6ONLY, buffer, &len);
    S(getsockopt, tcp, 99, 1, buffer, &len);
    S(getsockopt, udp, IPPROTO_TCP, TCP_NODELAY, buffer, &len);
    S(getsockopt, tcp, IPPROTO_TCP, TCP_NODELAY, buffer, &negative);
    S(getsockopt, udp, IPPROTO_UDP, 99, buffer, &len);
    S(setsockopt, tcp, IPPROTO_TCP, TCP_NODELAY, &on, 2);
    S(setsockopt, tcp, IPPROTO_TCP, 999, &on, 4);
    S(setsockopt, tcp, IPPROTO_IP, 999, &on, 4);
    S(setsockopt, udp, IPPROTO_TCP, TCP_NODELAY, &on, 4);
    S(setsockopt, tcp, IPPROTO_IPV6, IPV6_V6ONLY, &on, 4);
    S(setsockopt, tcp, 99, 1, &on, 4);
    S(setsockopt, tcp, IPPROTO_TCP, TCP_KEEPIDLE, &(int){-1}, 4);
    S(setsockopt, tcp, IPPROTO_IP, IP_TTL, &(int){999}, 4);
    S(setsockopt, tcp, IPPROTO_IP, IP_MULTICAST_TTL, &on, 4);
    S(setsockopt, tcp, SOL_SOCKET, SO_LINGER, &on, 4);
    S(setsockopt, udp, SOL_SOCKET, SO_REUSEPORT, &on, 4);
    int v6 = socket(AF_INET6, SOCK_STREAM, 0);
    S(bind, v6, &a, sizeof a);
    S(bind, v6, &six, 20);
    S(connect, v6, &six, 20);
    S(setsockopt, v6, IPPROTO_IPV6, IPV6_V6ONLY, &on, 3);
    S(setsockopt, v6, IPPROTO_IPV6, 999, &on, 4);
    S(getsockopt, v6, IPPROTO_IPV6, 999, buffer, &len);
    S(sendmsg, udp, BAD, 0);
    struct msghdr m = {0}; struct iovec v = {buffer, 1}; char control[64] = {0};
    m.msg_iov = &v, m.msg_iovlen = 1, m.msg_name = &a, m.msg_namelen = 200;
    S(sendmsg, udp, &m, 0);
    m.msg_namelen = -1;
    S(sendmsg, udp, &m, 0);
    m.msg_namelen = sizeof a, m.msg_control = control, m.msg_controllen = 8;
    S(sendmsg, udp, &m, 0);
    m.msg_controllen = 16;
    S(sendmsg, udp, &m, 0);
    return 0;
}
